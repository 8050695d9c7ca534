"""Import and back is bit-identical, tensor by tensor, for every layout and precision."""

import copy

import pytest
import torch

from convert.load import bound_table, inspect, load_pretrained
from convert.readers import open_source
from tests.parity.all_cases import CASES

PAIRS = [(name, dtype) for name in CASES for dtype in ("float32", "bfloat16")]
PAIRS += [(name, "float16") for name in ("hf dinov2 reg swiglu", "timm dinov3 qkvb", "meta dinov3 swiglu")]


@pytest.mark.parametrize(("name", "dtype"), PAIRS)
def test_same_bits(loaded, name, dtype, tmp_path):
    it = loaded(name)
    path = it.case.save(copy.deepcopy(it.model).to(getattr(torch, dtype)), tmp_path)
    card, _, found = inspect(path, **it.case.overrules)
    flat = load_pretrained(path, **it.case.overrules).flat
    written = {t.key: t for t in bound_table(card.spec, card.layout, card.num_classes > 0).write(flat)}
    with open_source(path) as source:
        assert set(written) == set(found.keys)
        for key, full in found.keys.items():
            original, ours = source.read(full), written[key].make()
            assert (ours.dtype, ours.shape) == (original.dtype, original.shape), key
            assert (written[key].dtype, written[key].shape) == (original.dtype, original.shape), key
            assert ours.tobytes() == original.tobytes(), key
