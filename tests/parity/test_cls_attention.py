"""The class token's attention in the last block, against transformers' and the official statement."""

import copy

import jax
import numpy as np
import pytest
import torch

from jaxdino.core.params import bind
from tests.parity.cases import HEADS
from tests.parity.drawing import channels_last, images
from tests.parity.meta_modules import _turn

SIZES = [(16, 16), (8, 32)]


def ours(pretrained, pixels, flat=None):
    card = pretrained.card
    skeleton = card.spec.skeleton(card.num_classes, pool=card.pool)
    see = jax.jit(lambda flat, pixels: bind(skeleton, flat).backbone.cls_attention(pixels)[0])
    return np.asarray(see(pretrained.flat if flat is None else flat, channels_last(pixels)))


def transformers_maps(model, pixels):
    """The last layer's attention (B, H, N, N), as `output_attentions` gives it."""
    model = copy.deepcopy(model)  # the tests share the model
    model.set_attn_implementation("eager")
    grid = {"interpolate_pos_encoding": True} if type(model).__name__[:3] == "ViT" else {}
    return model(pixels, output_attentions=True, **grid).attentions[-1]


def official_maps(model, pixels):
    """softmax(q k^T / sqrt(d)) of the last block, as DINO's get_last_selfattention returns it."""
    seen = []
    hook = model.blocks[-1].attn.register_forward_pre_hook(lambda _, args: seen.append(args))
    model(pixels)
    hook.remove()
    (x, rope), attn = seen[0], model.blocks[-1].attn
    q, k, _ = attn.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    if rope is not None:
        q, k = _turn(q, *rope), _turn(k, *rope)
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "name", ["hf dino", "hf dinov2 reg swiglu", "hf dinov3", "meta dino", "meta dinov2 reg", "meta dinov3"]
)
def test_maps_are_the_originals(loaded, name, size):
    it, pixels = loaded(name), images(*size)
    maps = (transformers_maps if name.startswith("hf") else official_maps)(it.model, pixels)
    theirs = maps[:, :, 0].detach().numpy()
    found = ours(it.ours, pixels)
    assert found.dtype == np.float32 and found.shape == theirs.shape
    assert np.abs(found - theirs).max() <= 1e-5 * theirs.max()
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    moved = dict(it.ours.flat)
    path = f"backbone.blocks.{it.ours.card.spec.config.depth - 1}.attn.qkv.kernel"
    moved[path] = moved[path] * 1.01
    assert np.abs(ours(it.ours, pixels, moved) - theirs).max() > 1e-4 * theirs.max()
    assert torch.isfinite(maps).all()
