"""Packed texts behave as a list of strings, and reading processes map large ones from a file."""

import os
import pickle

import numpy as np
import pytest

from jaxdino.data import packed
from jaxdino.data.packed import Texts

NAMES = ["a/b.jpg", "", "caf\u00e9.png", os.fsdecode(b"bad\xff.png"), "z" * 300]


@pytest.fixture(params=[1 << 16, 2])
def texts(request, monkeypatch):
    monkeypatch.setattr(packed, "CHUNK", request.param)
    return Texts.of(NAMES, "top/")


def test_they_are_the_texts(texts):
    whole = [f"top/{name}" for name in NAMES]
    assert len(texts) == 5 and list(texts) == whole == [texts[i] for i in range(5)]
    assert texts[-1] == whole[-1] and texts[np.int64(2)] == whole[2] and list(texts[1:4:2]) == whole[1:4:2]
    assert texts == whole and texts != whole[:-1] and texts.below() == NAMES
    assert list(texts.chosen([4, 0, 0, 3])) == [whole[i] for i in (4, 0, 0, 3)]
    assert list(texts.chosen([])) == [] == list(Texts.of([])) == list(Texts.joined([]))
    assert Texts.joined([texts, texts[:2]], "x/") == [f"x/{name}" for name in NAMES + NAMES[:2]]
    with pytest.raises(IndexError):
        texts[5]


def test_a_copy_is_sent_for_small_ones_and_a_file_for_large_ones(texts, monkeypatch):
    data = pickle.dumps(texts)
    assert pickle.loads(data) == texts
    monkeypatch.setattr(packed, "LARGE", 100)
    large = pickle.dumps(texts)
    assert pickle.loads(large) == texts and isinstance(pickle.loads(large).blob, np.memmap)
    assert b"zzzz" in data and b"zzzz" not in large
    again = pickle.loads(large)
    assert pickle.loads(pickle.dumps(again)) == texts  # a mapped array is not written again
    assert packed.shared(again.blob) == again.blob.filename
