"""Augment the crops of self-distillation on the device: flips, colours, blur, solarisation, normalisation.

Each recipe is static, plain data: steps that it leaves out are not compiled. Views with the same recipe are processed
as one batch.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdino.data import device_aug
from jaxdino.data.views import View

HOST_FIELDS = dict(kind="global", size=1, scale=(1.0, 1.0), ratio=(1.0, 1.0), degrees=0.0, count=1)
REACH = 3.0  # radius of the blur kernel, in standard deviations


def augment_views(
    key: jax.Array, images: jax.Array, recipes: Sequence[View], mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """Augment the views of a batch of images, each by its recipe; all draws are per view and per image.

    Order: flips, jitter, grey, blur, solarise, normalise.

    Args:
      key: a jax random key; the same key gives the same views.
      images: uint8 (B, V, H, W, C).
      recipes: V views (see `views.expanded`); static under jit.
      mean, std: C numbers each, for images in 0..1.

    Returns:
      float32 (B, V, H, W, C).

    Source: facebookresearch/dino main_dino.py DataAugmentationDINO.
    """
    if len(recipes) != images.shape[1]:
        raise ValueError(f"{len(recipes)} recipes for {images.shape[1]} views")
    places: dict[View, list[int]] = {}
    for place, view in enumerate(recipes):
        places.setdefault(dataclasses.replace(view, **HOST_FIELDS), []).append(place)
    done = []
    for recipe, views in places.items():
        chosen = images if len(views) == len(recipes) else images[:, jnp.array(views)]
        flat = chosen.reshape(-1, *chosen.shape[2:])
        done.append(augment_view(jax.random.fold_in(key, views[0]), flat, recipe, mean, std).reshape(chosen.shape))
    order = [place for views in places.values() for place in views]
    joined = jnp.concatenate(done, axis=1)
    return joined if order == sorted(order) else joined[:, jnp.argsort(jnp.array(order))]


def augment_view(
    key: jax.Array, images: jax.Array, recipe: View, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """Augment uint8 (n, H, W, C) by one recipe. Return float32 (n, H, W, C)."""
    flip_key, colour_key, blur_key, solarize_key = jax.random.split(key, 4)
    images = device_aug.random_flip(flip_key, images, recipe.hflip, recipe.vflip)
    planes = jnp.moveaxis(images, -1, 1).astype(jnp.float32) / 255
    planes = device_aug.random_colour(colour_key, planes, vars(recipe), axis=1)
    planes = random_blur(blur_key, planes, recipe.blur_prob, recipe.blur_sigma)
    planes = random_solarize(solarize_key, planes, recipe.solarize_prob, recipe.solarize_threshold)
    return device_aug.standardise(jnp.moveaxis(planes, 1, -1), mean, std)


def random_blur(key: jax.Array, planes: jax.Array, probability: float, sigma: tuple[float, float]) -> jax.Array:
    """Blur each image with the given probability, by a Gaussian whose sigma is drawn uniformly from the interval."""
    if not probability or not sigma[1]:
        return planes
    sigma_key, coin_key = jax.random.split(key)
    sigmas = jax.random.uniform(sigma_key, planes.shape[:1], minval=sigma[0], maxval=sigma[1])
    coins = jax.random.bernoulli(coin_key, probability, planes.shape[:1])
    return gaussian_blur(planes, jnp.where(coins, sigmas, 0), math.ceil(REACH * sigma[1]))


def gaussian_blur(planes: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Blur (n, C, H, W) by Gaussians cut off at `radius` pixels, along the columns and then the rows.

    The edge pixels are repeated beyond the edges, as in Pillow. Where sigma (n,) is 0, the image is unchanged.
    """
    taps = gaussian_taps(sigma, radius)
    for axis in (2, 3):
        planes = _weighted_shifts(planes, taps, axis)
    return planes


def _weighted_shifts(planes: jax.Array, taps: jax.Array, axis: int) -> jax.Array:
    """Convolve each image with its own row of `taps` (n, K) along one axis, as a sum of K shifted copies.

    On two cores this is three to six times as fast as a matmul with band matrices. The barrier keeps XLA from
    repeating the padding for every shift.
    """
    radius, side = taps.shape[1] // 2, planes.shape[axis]
    widths = [(radius, radius) if dim == axis else (0, 0) for dim in range(4)]
    padded = jax.lax.optimization_barrier(jnp.pad(planes, widths, mode="edge"))
    shifts = (jax.lax.slice_in_dim(padded, k, k + side, axis=axis) for k in range(taps.shape[1]))
    return sum(shift * taps[:, k].reshape(-1, 1, 1, 1) for k, shift in enumerate(shifts))


def gaussian_taps(sigma: jax.Array, radius: int) -> jax.Array:
    """Return float32 (n, 2 radius + 1): sampled Gaussians that sum to 1; a single 1 where sigma (n,) is 0."""
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)[None]
    spread = 2 * jnp.maximum(sigma, 1e-3)[:, None] ** 2
    taps = jnp.exp(-jnp.square(offsets) / spread)
    return taps / taps.sum(axis=1, keepdims=True)


def random_solarize(key: jax.Array, planes: jax.Array, probability: float, threshold: float) -> jax.Array:
    """Invert all values of at least `threshold`, in each image with the given probability."""
    if not probability:
        return planes
    coins = jax.random.bernoulli(key, probability, (planes.shape[0], 1, 1, 1))
    # Half a level of slack: 128 of 255 is inverted despite rounding errors of earlier steps.
    return jnp.where(coins & (planes >= threshold - 0.5 / 255), 1 - planes, planes)
