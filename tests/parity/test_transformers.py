"""What only Hugging Face folders have: shards, and a config.json that tells what shapes do not."""

import json

import pytest

from convert.load import load_pretrained
from jaxdino.core.params import digest


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
