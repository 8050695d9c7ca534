"""EoMT as transformers publishes it: the same classes and masks from the same checkpoint, with and without masking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from convert.load import load_pretrained
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig, Shares
from tests.parity.drawing import channels_last, draw, images
from tests.parity.ours import assert_same
from tests.torchvision_stub import import_torchvision

import_torchvision()
CASES = {"plain": dict(), "swiglu": dict(use_swiglu_ffn=True, num_register_tokens=0, num_upscale_blocks=2)}


def make(**changes):
    """A tiny EoMT in which each parameter matters."""
    from transformers import EomtConfig, EomtForUniversalSegmentation

    shape = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8)
    shape |= dict(num_upscale_blocks=1, num_blocks=2, num_queries=7, num_register_tokens=2, num_labels=5)
    model = draw(EomtForUniversalSegmentation(EomtConfig(**shape | changes)))
    model.attn_mask_probs.zero_()
    return model


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    model, folder = make(**CASES[request.param]), tmp_path_factory.mktemp("eomt")
    model.save_pretrained(folder)
    return model, load_pretrained(folder), folder


def ours(found, pixels, flat=None, shares=None):
    """Our predictions, under the names of the original's output."""
    skeleton = found.card.spec.skeleton(head=found.card.head)

    @jax.jit
    def run(flat, pixels):
        model = bind(skeleton, flat)
        model.head.shares = None if shares is None else Shares(jnp.asarray(shares))
        return model(pixels).predictions

    return run(found.flat if flat is None else flat, channels_last(pixels))


def theirs(model, pixels):
    with torch.no_grad():
        out = model(pixels)
    return {"logits": out.class_queries_logits, "masks": out.masks_queries_logits}


def test_same_classes_and_masks(both):
    model, found, _ = both
    pixels = images(32, 32)
    assert found.card.head.queries == 7 and found.card.num_classes == 5 and found.card.spec.config.pos_grid == (4, 4)
    assert_same(ours(found, pixels), theirs(model, pixels))


def test_same_with_masked_attention(both):
    model, found, _ = both
    pixels = images(32, 32)
    model.attn_mask_probs.fill_(1)
    try:
        expected = theirs(model, pixels)
    finally:
        model.attn_mask_probs.zero_()
    masked = ours(found, pixels, shares=[1.0, 1.0])
    assert masked["aux_masks"].shape[:3] == (2, 2, 7)
    assert_same({name: masked[name] for name in expected}, expected)
    with pytest.raises(AssertionError):  # the mask is felt
        assert_same(ours(found, pixels), expected)


def test_each_leaf_of_the_head_matters(both):
    model, found, _ = both
    pixels = images(32, 32)
    expected = theirs(model, pixels)
    for path in (path for path in found.flat if path.startswith("head.")):
        other = ours(found, pixels, found.flat | {path: found.flat[path][::-1] * 1.5})
        with pytest.raises(AssertionError):
            assert_same(other, expected)


@pytest.mark.parametrize("both", ["swiglu"], indirect=True)
def test_gated_layers_as_older_releases_wrote_them(both, tmp_path):
    """transformers 5.15 has one layer where later releases have two."""
    model, found, folder = both
    state = model.state_dict()
    for key in [key for key in state if ".mlp.gate_proj." in key]:
        halves = [state.pop(key.replace("gate_proj", part)) for part in ("gate_proj", "up_proj")]
        state[key.replace("gate_proj", "weights_in")] = torch.cat(halves)
        state[key.replace("gate_proj", "weights_out")] = state.pop(key.replace("gate_proj", "down_proj"))
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    older = load_pretrained(tmp_path)
    assert older.card.spec.config == found.card.spec.config
    for path, leaf in found.flat.items():
        np.testing.assert_array_equal(older.flat[path], leaf)


def test_a_checkpoint_without_its_config_is_named(both):
    _, _, folder = both
    with pytest.raises(UserError, match=r"num_attention_heads, num_blocks is in its config\.json"):
        load_pretrained(folder / "model.safetensors")


def test_a_random_key_frees_some_queries():
    spec = MaskQueriesHeadConfig(2, 50, "tokens", 1)
    from flax import nnx

    head = spec.build(16, nnx.Rngs(0))
    masks = -jnp.ones((2, 50, 4, 4))
    for share, expected in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
        allowed = head._allowed(masks, (4, 4), 50 + 1 + 16, jnp.asarray(share), jax.random.key(1))
        assert allowed.shape == (2, 1, 67, 67)
        assert np.asarray(allowed[:, 0, :50, 51:]).all(axis=-1).mean() == pytest.approx(expected, abs=0.1)
        assert allowed[:, :, 50:].all() and allowed[..., :51].all()
