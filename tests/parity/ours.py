"""Our side of a comparison, compiled once for each shape of model and image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch

from convert.load import Pretrained
from jaxdino.core.params import bind
from jaxdino.models.registry import ModelSpec
from jaxdino.models.vit import Output, ViTConfig

TOLERANCE = 1e-5
"""Largest difference allowed, as a share of the reference's largest value."""


def _sort(out: Output, name: str) -> dict[str, jax.Array]:
    patches = out.patches.reshape(out.patches.shape[0], -1, out.patches.shape[-1])
    parts = {"class token": out.cls, "patches": patches, "registers": out.registers}
    return {name + part: value for part, value in parts.items() if value.size}


def _look(model, images: jax.Array) -> dict[str, jax.Array]:
    states, _ = model.backbone.hidden_states(images)
    out = model(images)
    seen = {"embedding": states[0], "block 0": states[1], "pooled": out.pooled, **_sort(out, "")}
    for n, layer in enumerate(model.backbone.intermediate_layers(images, n=2)):
        seen |= _sort(layer, f"intermediate {n} ")
    return seen if out.logits is None else seen | {"logits": out.logits}


@functools.cache
def _compiled(config: ViTConfig, num_classes: int, pool: str):
    skeleton = ModelSpec("tiny", "any", config).skeleton(num_classes, pool=pool)
    return jax.jit(lambda flat, images: _look(bind(skeleton, flat), images))


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


def objective(seen: dict) -> jax.Array:
    """A scalar to which every output contributes with other weights: twin of `reference_objective`."""
    return sum(jnp.sum(jnp.sin(jnp.arange(x.size)).reshape(x.shape) * x) for x in _outputs(seen))


def reference_objective(seen: dict[str, torch.Tensor]) -> torch.Tensor:
    """The same scalar in PyTorch."""
    return sum((torch.sin(torch.arange(x.numel())).reshape(x.shape) * x).sum() for x in _outputs(seen))


def _outputs(seen: dict) -> list:
    return [seen[name] for name in ("class token", "patches", "registers", "pooled", "logits") if name in seen]


def gradients(pretrained: Pretrained, images: np.ndarray) -> dict[str, np.ndarray]:
    """Gradient of `objective` by path; buffers keep their values."""
    card = pretrained.card
    skeleton = card.spec.skeleton(card.num_classes, pool=card.pool)
    buffers = {path: pretrained.flat[path] for path in skeleton.paths("buffer")}
    params = {path: pretrained.flat[path] for path in skeleton.paths("param")}
    loss = jax.jit(jax.grad(lambda params: objective(_look(bind(skeleton, params | buffers), images))))
    return jax.tree.map(np.asarray, loss(params)) | buffers


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
