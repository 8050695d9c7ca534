"""A checkpoint fits whole or not at all, and the error names what is wrong."""

import argparse
import re

import pytest
import torch

from convert.load import load_pretrained
from jaxdino.core.errors import UserError
from jaxdino.models.spec import IMAGENET
from tests.parity.cases import GRID, HEADS, PATCH, WIDTH, look
from tests.parity.drawing import channels_last, draw, images
from tests.parity.ours import assert_same
from tests.parity.ours import look as look_at_ours


def refusal(state: dict, tmp_path, **overrules) -> str:
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError) as caught:
        load_pretrained(tmp_path / "weights.pth", **overrules)
    return str(caught.value)


@pytest.fixture
def state(loaded):
    return {key: tensor.clone() for key, tensor in loaded("meta dinov3").model.state_dict().items()}


def test_missing_key(state, tmp_path):
    del state["blocks.1.mlp.fc1.bias"]
    message = refusal(state, tmp_path)
    assert re.search(r"missing blocks\.1\.mlp\.fc1\.bias .*nearest: blocks\.\d\.mlp\.fc\d\.bias", message)
    assert "Nothing was loaded" in message


def test_unexpected_key(state, tmp_path):
    state["blocks.1.mlp.fc1.biass"] = torch.zeros(3)
    assert re.search(
        r"unexpected blocks\.1\.mlp\.fc1\.biass \(3,\) \(nearest: blocks\.1\.mlp\.fc1\.bias", refusal(state, tmp_path)
    )


def test_mismatched_shape(state, tmp_path):
    state["blocks.2.attn.proj.weight"] = torch.zeros(WIDTH, WIDTH + 1)
    message = refusal(state, tmp_path)
    assert "mismatched blocks.2.attn.proj.weight (64, 65) do not make backbone.blocks.2.attn.proj.kernel" in message


def test_every_problem_is_listed(state, tmp_path):
    del state["norm.bias"]
    state["extra.bias"] = torch.zeros(1)
    state["cls_token"] = torch.zeros(1, 2, WIDTH)
    message = refusal(state, tmp_path)
    assert all(word in message for word in ("missing norm.bias", "unexpected extra.bias", "mismatched cls_token"))


def test_other_number_of_axes(state, tmp_path):
    state["blocks.0.attn.proj.weight"] = torch.zeros(WIDTH)
    assert "mismatched blocks.0.attn.proj.weight (64,)" in refusal(state, tmp_path)


def test_changed_bias_mask(state, tmp_path):
    """DINOv3's mask stands for what the forward pass does; another one would mean another function."""
    state["blocks.0.attn.qkv.bias_mask"] = torch.ones(3 * WIDTH)
    assert "blocks.0.attn.qkv.bias_mask does not hold the values" in refusal(state, tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool])
def test_weights_that_are_no_floats(state, tmp_path, dtype):
    key = "blocks.1.mlp.fc1.weight"
    state[key] = state[key].to(dtype)
    name = str(dtype).removeprefix("torch.")
    assert f"not floating point: {key} is {name}" in refusal(state, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite(state, tmp_path, value, dtype):
    state = {key: tensor.to(dtype) for key, tensor in state.items()}
    state["blocks.1.mlp.fc1.bias"][3] = value
    torch.save(state, tmp_path / "weights.pth")
    notes = load_pretrained(tmp_path / "weights.pth").notes
    assert [note for note in notes if "NaN" in note] == ["warning: NaN or infinity in backbone.blocks.1.mlp.fc1.bias"]


def test_no_network_in_the_file(tmp_path):
    message = refusal({"fc.weight": torch.zeros(2, 2)}, tmp_path)
    assert "no known network in this file of 1 keys, which begins with fc.weight" in message


def test_wrong_name(state, tmp_path):
    assert "the checkpoint is not a dinov3_vits16: " in refusal(state, tmp_path, model="dinov3_vits16")


def test_head_is_kept_or_dropped_by_flag(loaded):
    it = loaded("hf dinov2 head")
    assert it.ours.card.num_classes == 5 and "head.kernel" in it.ours.flat
    without = load_pretrained(it.path, drop_head=True)
    assert without.card.num_classes == 0 and without.card.class_names == ()
    assert set(it.ours.flat) - set(without.flat) == {"head.kernel", "head.bias"}
    assert "the head of 5 classes was left aside, as asked" in without.notes


def test_masked_autoencoder(loaded, tmp_path):
    """A foundation model of eye images, as published: encoder and decoder, optimiser, arguments of the run."""
    it = loaded("timm vit")
    model = draw(it.case.build())
    model.reset_classifier(0)
    encoder = model.state_dict()
    decoder = {
        "mask_token": torch.zeros(1, 1, 32),
        "decoder_pos_embed": torch.zeros(1, GRID * GRID + 1, 32),
        "decoder_embed.weight": torch.zeros(32, WIDTH),
        "decoder_blocks.0.norm1.weight": torch.zeros(32),
        "decoder_pred.bias": torch.zeros(3 * PATCH * PATCH),
    }
    content = {
        "model": encoder | decoder,
        "optimizer": {"state": {0: {"step": 10, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 800,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="mae_vit_large_patch16", blr=1e-3, device="cuda"),
    }
    torch.save(content, tmp_path / "mae.pth")
    found = load_pretrained(tmp_path / "mae.pth", num_heads=HEADS)
    assert found.card.spec.family == "vit" and found.card.spec.preprocess.mean == IMAGENET[0]
    left = f"left aside {len(decoder) - 1} tensors, decoder_pos_embed to decoder_pred.bias: the decoder of masked"
    assert [note.startswith(left) for note in found.notes if "decoder" in note] == [True]
    assert any("mask_token" in note for note in found.notes)
    pixels = images(6 * PATCH, 3 * PATCH)
    assert_same(look_at_ours(found, channels_last(pixels)), look(it.case, model, pixels))
