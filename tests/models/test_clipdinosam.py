"""What CLIP-DINO-SAM computes, how strategies see it, and how it is kept on disk."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert.store import Card, load_model, save_model
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind, digest
from jaxdino.models import lora
from jaxdino.models.clip import CLIPConfig
from jaxdino.models.lora import LoRA
from jaxdino.models.registry import get
from jaxdino.strategy import Stage, resolve, select
from tests.models.tiny_clipdinosam import CONFIG, TEXT, spec_of, start

IDS = np.array([[3, 4, 49, 0], [9, 49, 0, 0], [7, 7, 8, 49]])
ADAPTED = dict(
    dino_lora=LoRA(rank=2, targets=("q", "v"), last_blocks=1),
    clip_lora=LoRA(rank=3, targets=("@mlp",), last_blocks=1),
    decoder_lora=LoRA(rank=4, alpha=8.0, targets=("@linear",), dora=True),
)
PLAIN = spec_of()


def images(h=32, w=32):
    return np.random.default_rng(0).normal(size=(2, h, w, 3)).astype(np.float32)


@functools.lru_cache(None)
def _compiled(spec, multimask, dtype):
    skeleton = spec.skeleton(dtype=dtype)

    def look(flat, x, ids, points, labels):
        net = bind(skeleton, flat).backbone
        tokens, text = net.tokens(x), net.encode_text(ids)
        text = jnp.broadcast_to(text[None], (2, 3, 20))
        return tokens, text, *net.masks(tokens, text, points, labels, multimask=multimask)

    return jax.jit(look)


def look(spec, flat, x=None, ids=IDS, points=None, labels=None, multimask=False, dtype=jnp.float32):
    """Tokens, text features, logits and IoU of three prompts."""
    return _compiled(spec, multimask, dtype)(flat, images() if x is None else x, ids, points, labels)


@pytest.mark.parametrize(("h", "w", "multimask"), [(32, 32, False), (16, 40, True)])
def test_shapes_on_any_grid(h, w, multimask):
    tokens, text, logits, iou = look(PLAIN, start(PLAIN)[1], images(h, w), multimask=multimask)
    masks = 3 if multimask else 1
    assert tokens.shape == (2, h // 4, w // 4, 20) and logits.shape == (2, 3, masks, h, w)
    assert iou.shape == (2, 3, masks) and {a.dtype for a in (tokens, text, logits, iou)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(jnp.linalg.norm(text, axis=-1), 1, rtol=1e-5)


def test_called_on_images_it_gives_its_tokens():
    hidden = np.zeros((2, 8, 8), bool)
    hidden[:, :4] = True
    skeleton, flat = start(PLAIN)
    out, masked = jax.jit(lambda flat, x, hidden: [bind(skeleton, flat)(x, mask=m) for m in (None, hidden)])(
        flat, images(), hidden
    )
    np.testing.assert_allclose(out.patches, look(PLAIN, flat)[0], atol=1e-4)
    np.testing.assert_allclose(out.pooled, out.patches.mean(axis=(1, 2)), atol=1e-5)
    assert out.registers.shape == (2, 0, 20) and out.logits is None
    assert float(jnp.abs(masked.patches - out.patches).max()) > 1e-2


def test_half_precision():
    tokens, _, logits, iou = look(PLAIN, start(PLAIN)[1], dtype=jnp.bfloat16)
    assert tokens.dtype == jnp.bfloat16 and logits.dtype == iou.dtype == jnp.float32
    want = look(PLAIN, start(PLAIN)[1])[2]
    assert float(jnp.abs(logits - want).mean()) < 0.1 * float(jnp.abs(want).mean())


def test_each_prompt_is_answered_by_itself():
    flat, others = start(PLAIN)[1], np.array([[8, 49, 0, 0], [9, 49, 0, 0], [1, 2, 49, 0]])
    (_, _, logits, iou), (_, _, beside, beside_iou) = look(PLAIN, flat), look(PLAIN, flat, ids=others)
    np.testing.assert_allclose(beside[:, 1], logits[:, 1], atol=1e-5)
    np.testing.assert_allclose(beside_iou[:, 1], iou[:, 1], atol=1e-5)
    assert float(jnp.abs(beside[:, 0] - logits[:, 0]).max()) > 1e-3


def test_points_are_pixels_of_the_image():
    flat, without = start(PLAIN)[1], look(PLAIN, start(PLAIN)[1])[2]
    points, labels = np.full((2, 3, 1, 2), 9.5, np.float32), np.ones((2, 3, 1), np.int32)
    here, there = (look(PLAIN, flat, points=where, labels=labels)[2] for where in (points, points + 8))
    assert float(jnp.abs(here - without).max()) > 1e-2 and float(jnp.abs(here - there).max()) > 1e-3
    encoder = bind(*start(PLAIN)).backbone.sam.prompt_encoder
    placed, _ = encoder(np.full((1, 1, 1, 2), 5.5, np.float32), np.ones((1, 1, 1), np.int32), grid=(8, 8), pad=False)
    cell = encoder.image_positions((8, 8))[1, 1] + encoder.point_embeddings[1].embedding[...][0]
    np.testing.assert_allclose(placed[0, 0, 0], cell, atol=1e-5)  # pixel 5 and a half: the middle of patch 1


@pytest.mark.parametrize("fields", [{}, ADAPTED])
def test_round_trip_on_disk(tmp_path, fields):
    spec = spec_of(**fields)
    flat = start(spec)[1]
    card = save_model(tmp_path / "model", Card(spec, class_names=("red circle",), source={"dino": "x"}), flat)
    again, found = load_model(tmp_path / "model")
    assert again == card and again.spec == spec and digest(found) == digest(flat) == card.digest
    assert list(found) == list(spec.skeleton().entries)


@pytest.mark.parametrize("fields", [{}, ADAPTED])
def test_every_parameter_lies_in_one_layer(fields):
    spec = spec_of(**fields)
    paths = spec.skeleton().paths()
    assert all(len([layer for layer in spec.layers if layer.holds(path)]) == 1 for path in paths)
    assert [layer.name for layer in spec.layers if not any(layer.holds(path) for path in paths)] == ["head"]
    assert spec.config.input_kernel in paths and spec.config.in_channels == 3
    assert spec.config.with_channels(1).image.in_channels == 1


def test_selectors_mean_dino():
    spec = spec_of()
    assert select("@blocks", spec) == ["blocks.0", "blocks.1"] and select("@last:1", spec) == ["blocks.1"]
    known = {"on": {"lr": 1.0}, "off": {"frozen": True}}

    def trained(rules):
        groups = {group: known[group] for _, group in rules}
        plan = resolve(spec, spec.skeleton(), Stage.of({"name": "s", "rules": rules, "groups": groups, "epochs": 1}))
        return {".".join(path.split(".")[1 : 4 if path.startswith("backbone.dino") else 3]) for path in plan.trainable}

    rest = (".*", "off")
    assert trained([("@last:1", "on"), rest]) == {"dino.blocks.1"}
    assert trained([("@stem", "on"), rest]) == {"dino.cls_token", "dino.register_tokens", "dino.mask_token"} | {
        "dino.patch_embed.proj"
    }
    parts = {name.split(".")[0] for name in trained([("@head", "on"), rest])}
    assert parts == {"token_projection", "token_to_mask", "sam"}
    everything = trained([("@all", "on")])
    assert "clip.text" in everything and "sam.prompt_encoder" not in everything


def test_of_clip_the_text_tower_alone_is_taken():
    both = get("clip_tiny").config
    assert both.text_only().vision is None and both.text_only().embed_dim == 64
    with pytest.raises(UserError, match="text_only"):
        dataclasses.replace(CONFIG, text=both)
    for text in (both.image_only(), CLIPConfig(vision=None, text=TEXT, embed_dim=None)):
        with pytest.raises(UserError, match="projection"):
            dataclasses.replace(CONFIG, text=text)


def test_merging_one_part_leaves_the_others_adapters():
    skeleton, flat = start(spec_of(**ADAPTED))
    rest = spec_of(**ADAPTED | {"dino_lora": None}).skeleton()
    half = lora.merged(skeleton, flat, within="backbone.dino")
    assert list(half) == list(rest.entries)
    assert all(np.array_equal(half[path], flat[path]) for path in lora.leaves(half))
