"""Compute the features of a batch of images with a loaded model."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.data.photometric import augment_view, given
from jaxdino.data.recipe import View
from jaxdino.features.names import PATCHES
from jaxdino.models.output import Output

Step = Callable[[Mapping[str, Any]], dict[str, jax.Array]]


def forward(model: Any, layers: int, patches: bool) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Return the function images -> {feature: array}, (B, D) and patch tokens (B, h, w, D).

    Args:
      model: as from `jaxdino.load`. layers: last blocks (or stages) whose features are returned, see `names`.
    """

    def look(images: jax.Array) -> dict[str, jax.Array]:
        outs = [model(images)] if layers == 1 else model.intermediate_layers(images, layers)
        return _pooled(outs, patches)

    return look


@functools.partial(jax.jit, static_argnums=1)
def _pooled(outs: list[Output], patches: bool) -> dict[str, jax.Array]:
    found = {}
    for block, out in zip(range(len(outs), 0, -1), outs, strict=True):
        found[f"cls-{block}"], found[f"mean-{block}"] = out.cls, out.patches.mean(axis=(1, 2))
    if patches:
        found[PATCHES] = outs[-1].patches
    return {name: value.astype(jnp.float32) for name, value in found.items()}


def shapes(model: Any, layers: int, patches: bool) -> dict[str, tuple[int, ...]]:
    """Return {feature: shape of one image's}, without computing one.

    Raises:
      UserError: if the model does not have so many blocks.
    """
    config, how = model.card.spec.config, model.card.spec.preprocess
    images = jax.ShapeDtypeStruct((1, *how.size, config.in_channels), np.uint8)
    found = jax.eval_shape(forward(model, layers, patches), images)
    return {name: value.shape[1:] for name, value in found.items()}


def plain_step(model: Any, layers: int, patches: bool) -> Step:
    """Return the step for images as in evaluation: {"image", "weight", "index"} -> features and these two."""
    look = forward(model, layers, patches)
    return lambda batch: look(batch["image"]) | {name: batch[name] for name in ("weight", "index")}


def augmented_step(model: Any, layers: int, patches: bool, view: View) -> Callable[[int], Step]:
    """Return seed -> the step for randomly cropped images, whose colours `view` augments before the forward pass."""
    look, how = forward(model, layers, patches), model.card.spec.preprocess

    @jax.jit
    def colours(key: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
        drawn = given(batch, "image") | {"places": jnp.maximum(batch["index"], 0)}
        return augment_view(key, batch["image"], view, how.mean, how.std, **drawn)

    def of_seed(seed: int) -> Step:
        key = jax.random.key(seed)
        return lambda batch: look(colours(key, batch)) | {name: batch[name] for name in ("weight", "index")}

    return of_seed
