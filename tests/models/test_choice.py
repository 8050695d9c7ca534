"""How a head's scores become the classes of an image, and that a new kind of head needs no change of `predict`."""

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import jaxdino
from convert.store import Card, save_model
from jaxdino import predict
from jaxdino.core.params import split
from jaxdino.models import heads
from jaxdino.models.heads.choice import AboveThresholds, MostProbable
from jaxdino.models.heads.linear import LinearHeadConfig
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.registry import get

SCORES = np.array([0.5, 3.0, -2.0, 3.0], np.float32)


def test_the_most_probable_are_by_softmax():
    found = MostProbable()(SCORES, 3)
    odds = np.exp(SCORES.astype(np.float64)) / np.exp(SCORES.astype(np.float64)).sum()
    assert [i for i, _ in found] == [1, 3, 0]  # of equal ones the first
    np.testing.assert_allclose([p for _, p in found], odds[[1, 3, 0]], rtol=1e-12)
    assert sum(p for _, p in MostProbable()(np.array([900.0, -900.0]), 2)) == 1.0


def test_all_above_their_thresholds_are_by_sigmoid():
    odds = 1 / (1 + np.exp(-SCORES.astype(np.float64)))
    choose = AboveThresholds((0.5, 0.99, float(odds[2]), 0.9))
    found = choose(SCORES, 1)
    assert [i for i, _ in found] == [3, 0, 2]  # a probability equal to its threshold counts
    np.testing.assert_allclose([p for _, p in found], odds[[3, 0, 2]], rtol=1e-12)
    assert AboveThresholds((1.0,) * 4)(SCORES, 4) == []


def test_the_head_says_which():
    assert LinearHeadConfig(4).choice == MostProbable()
    assert LinearHeadConfig(4, thresholds=(0.5,) * 4).choice == AboveThresholds((0.5,) * 4)
    assert PatchesHeadConfig(4).choice is None


@dataclasses.dataclass(frozen=True)
class Ordinal:
    """Scores of "at least class i"; the class is the number of those that are likely."""

    several = False

    def __call__(self, scores, topk):
        least = 1 / (1 + np.exp(-scores))
        chosen = max(int(np.sum(least > 0.5)) - 1, 0)
        return [(chosen, float(least[chosen]))]


@dataclasses.dataclass(frozen=True)
class OrdinalHeadConfig(LinearHeadConfig):
    name = "ordinal"
    choice = Ordinal()


@pytest.fixture
def ordinal(tmp_path, monkeypatch):
    monkeypatch.setitem(heads.HEADS, "ordinal", OrdinalHeadConfig)
    spec, head = get("dinov3_digits"), OrdinalHeadConfig(3, "cls")
    flat = {path: np.asarray(leaf) for path, leaf in split(spec.build(head=head, rngs=nnx.Rngs(0)))[1].items()}
    flat["head.kernel"], flat["head.bias"] = flat["head.kernel"] * 0, np.array([4.0, 1.0, -1.0], np.float32)
    save_model(tmp_path / "model", Card(spec, head, class_names=("low", "mid", "high")), flat)
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    return tmp_path


def test_a_new_kind_of_head_needs_no_change_of_predict(ordinal):
    """By softmax it would be "low"."""
    expected = 1 / (1 + np.exp(-1.0))
    ((found,),) = jaxdino.load(ordinal / "model").predict([ordinal / "a.png"])
    assert found[0] == "mid" and found[1] == pytest.approx(expected, rel=1e-6)
    out = str(ordinal / "t.jsonl")
    assert predict.main(["--workdir", str(ordinal / "model"), "--out", out, str(ordinal / "a.png")]) == 0
    row = json.loads((ordinal / "t.jsonl").read_text())
    assert (row["class"], row["probability"]) == ("mid", round(expected, 6))
