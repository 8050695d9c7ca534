"""Augment and normalise images on the device, inside jit: uint8 input, normalised float32 output.

Images are (B, H, W, C), float in 0..1 until they are normalised; photometric steps take planes, (B, C, H, W), which are
several times as fast on a CPU. The strengths come from a `recipe.View`, plain data: steps that it leaves out are not
compiled. Crops, rotations and flips are made on the host (`geometry`). What is drawn for an image depends only on the
seed, the step and its place in the global batch (`draws`).
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxdino.data.photometric import draws
from jaxdino.data.photometric.blurs import add_noise, random_blur, random_motion_blur
from jaxdino.data.photometric.colours import grey, jitter
from jaxdino.data.photometric.erasing import random_erase
from jaxdino.data.photometric.jpeg import random_jpeg
from jaxdino.data.photometric.policy import automatic
from jaxdino.data.photometric.tones import (
    random_autocontrast,
    random_equalize,
    random_invert,
    random_posterize,
    random_solarize,
)
from jaxdino.data.recipe import View, without_geometry

STEPS: tuple[Callable[[jax.Array, jax.Array, View], jax.Array], ...] = (
    jitter,
    grey,
    random_autocontrast,
    random_equalize,
    random_blur,
    random_motion_blur,
    random_solarize,
    random_posterize,
    random_invert,
    add_noise,
    random_jpeg,
)
"""The steps in order: (keys (n,), planes (n, C, H, W), view) -> planes; unchanged if the view leaves the step out."""


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Convert uint8 (B, H, W, C) to float32 (x / 255 - mean) / std; mean and std have C values."""
    return standardise(images.astype(jnp.float32) / 255, mean, std)


def standardise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Return (x - mean) / std of images (B, H, W, C) in 0..1."""
    mean, std = (jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (mean, std))
    return (images - mean) / std


def augment_views(
    key: jax.Array,
    images: jax.Array,
    recipes: Sequence[View],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    places: jax.Array | None = None,
    operations: jax.Array | None = None,
) -> jax.Array:
    """Augment the views of a batch of images, each by its recipe; all draws are per view and per image.

    Args:
      key: a jax random key; the same key gives the same views.
      images: uint8 (B, V, H, W, C).
      recipes: V views (see `recipe.expanded`); static under jit.
      mean, std: C numbers each, for images in 0..1.
      places: int32 (B,), of the images in the global batch; None: their order here.
      operations: (B, V, K, 2), drawn on the host for the views with `auto` (see `policy_geometry.applied`).

    Returns:
      float32 (B, V, H, W, C).

    Source: facebookresearch/dino main_dino.py DataAugmentationDINO.
    """
    if len(recipes) != images.shape[1]:
        raise ValueError(f"{len(recipes)} recipes for {images.shape[1]} views")
    groups: dict[View, list[int]] = {}
    for place, view in enumerate(recipes):
        groups.setdefault(without_geometry(view), []).append(place)
    keys = jax.vmap(draws.of_samples, (0, None))(_keys(key, places, len(images)), jnp.arange(len(recipes)))
    done = []
    for recipe, views in groups.items():
        given = [x if x is None else _flat(x, views) for x in (keys, images, operations)]
        done.append(_augmented(*given, recipe, mean, std).reshape(len(images), len(views), *images.shape[2:]))
    order = [place for views in groups.values() for place in views]
    joined = jnp.concatenate(done, axis=1)
    return joined if order == sorted(order) else joined[:, jnp.argsort(jnp.array(order))]


def augment_view(
    key: jax.Array,
    images: jax.Array,
    recipe: View,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    places: jax.Array | None = None,
    operations: jax.Array | None = None,
) -> jax.Array:
    """Augment uint8 (n, H, W, C) by one recipe. Return float32 (n, H, W, C). Arguments as for `augment_views`.

    `operations` has no axis for the views: (n, K, 2).
    """
    return _augmented(_keys(key, places, len(images)), images, operations, recipe, mean, std)


def _keys(key: jax.Array, places: jax.Array | None, count: int) -> jax.Array:
    return draws.of_samples(key, jnp.arange(count) if places is None else places)


def _flat(values: jax.Array, views: list[int]) -> jax.Array:
    """Return some views of (B, V, ...) as (B * views, ...)."""
    chosen = values if len(views) == values.shape[1] else values[:, jnp.array(views)]
    return chosen.reshape(-1, *chosen.shape[2:])


def given(batch: Mapping[str, jax.Array], entry: str) -> dict[str, jax.Array | None]:
    """Return what a batch holds for the augmentation of an entry: the arguments `places` and `operations`."""
    return {"places": batch.get("place"), "operations": batch.get(f"{entry}_operations")}


def _augmented(
    keys: jax.Array,
    images: jax.Array,
    operations: jax.Array | None,
    recipe: View,
    mean: Sequence[float],
    std: Sequence[float],
) -> jax.Array:
    planes = jnp.moveaxis(images, -1, 1).astype(jnp.float32) / 255
    planes = automatic(keys, planes, recipe.auto, operations)
    for step in STEPS:
        planes = step(keys, planes, recipe)
    images = standardise(jnp.moveaxis(planes, 1, -1), mean, std)
    return random_erase(keys, images, recipe.erase_prob, recipe.erase_area, recipe.erase_ratio)
