"""Our side of a comparison, compiled once for each shape of model and image."""

import functools

import jax
import numpy as np
import torch

from convert.load import Pretrained
from jaxdino.core.params import bind
from jaxdino.models.output import Output
from jaxdino.models.spec import ModelSpec
from jaxdino.models.vit import ViTConfig

TOLERANCE = 1e-5
"""Largest difference allowed, as a share of the reference's largest value."""


def _sort(out: Output, name: str) -> dict[str, jax.Array]:
    patches = out.patches.reshape(out.patches.shape[0], -1, out.patches.shape[-1])
    parts = {"class token": out.cls, "patches": patches, "registers": out.registers}
    return {name + part: value for part, value in parts.items() if value.size}


def look_at(model, images: jax.Array) -> dict[str, jax.Array]:
    """The places of `look`, from a bound model."""
    states, _ = model.backbone.hidden_states(images)
    out = model(images)
    seen = {"embedding": states[0], "block 0": states[1], "pooled": out.pooled, **_sort(out, "")}
    for n, layer in enumerate(model.backbone.intermediate_layers(images, n=2)):
        seen |= _sort(layer, f"intermediate {n} ")
    return seen if out.logits is None else seen | {"logits": out.logits}


@functools.cache
def _compiled(config: ViTConfig, num_classes: int, pool: str):
    skeleton = ModelSpec("tiny", "any", config).skeleton(num_classes, pool=pool)
    return jax.jit(lambda flat, images: look_at(bind(skeleton, flat), images))


def look(pretrained: Pretrained, images: np.ndarray, flat=None) -> dict[str, np.ndarray]:
    """What our model gives at each place that the tests compare, for (B, H, W, C) images.

    Names: "embedding", "block 0" (before any norm), "class token", "registers", "patches" (after it),
    "pooled", "logits", and "intermediate n ..." for the last two blocks with the final norm.

    Args:
      flat: other parameters than the pretrained ones.
    """
    card = pretrained.card
    run = _compiled(card.spec.config, card.num_classes, card.pool)
    return jax.tree.map(np.asarray, run(pretrained.flat if flat is None else flat, images))


def worst(ours: dict, reference: dict[str, torch.Tensor]) -> dict[str, float]:
    """{name: largest difference as a share of the reference's largest value}."""
    assert set(ours) == set(reference)
    found = {}
    for name, value in reference.items():
        value = value.detach().numpy()
        assert ours[name].shape == value.shape, name
        found[name] = float(np.abs(ours[name] - value).max() / np.abs(value).max())
    return found


def assert_same(ours: dict, reference: dict[str, torch.Tensor]) -> None:
    """Fails with the places that differ by more than the tolerance."""
    over = {name: share for name, share in worst(ours, reference).items() if not share <= TOLERANCE}
    assert not over, f"above {TOLERANCE}: {over}"
