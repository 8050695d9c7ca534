"""The transformers classes and ours give the same tokens, poolings, intermediate layers and logits."""

import json

import pytest

from convert.load import load_pretrained
from jaxdino.core.params import digest
from tests.parity.cases import PATCH, SIZES, look
from tests.parity.drawing import channels_last, images
from tests.parity.hf_models import HF_CASES
from tests.parity.ours import assert_same
from tests.parity.ours import look as look_at_ours


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", HF_CASES)
def test_same_outputs(loaded, name, size):
    it = loaded(name)
    pixels = images(*(PATCH * side for side in SIZES[size]))
    assert_same(look_at_ours(it.ours, channels_last(pixels)), look(it.case, it.model, pixels))


@pytest.mark.parametrize("name", ["hf vit head", "hf dinov2 reg swiglu", "hf dinov3 gated"])
def test_shards_hold_the_same(loaded, name, tmp_path):
    it = loaded(name)
    it.case.save(it.model, tmp_path, max_shard_size="100KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert digest(load_pretrained(tmp_path).flat) == it.ours.card.digest


def test_config_tells_heads_epsilon_and_classes(loaded):
    card = loaded("hf vit head").ours.card
    assert (card.spec.config.num_heads, card.spec.config.norm_eps) == (4, 1e-12)
    assert (card.num_classes, card.pool, len(card.class_names)) == (5, "cls", 5)
    assert loaded("hf dinov2 reg head").ours.card.pool == "cls_mean"
