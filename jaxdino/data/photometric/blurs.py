"""Gaussian blur, motion blur and noise, on planes (n, C, H, W) in 0..1. Edge pixels are repeated beyond the edges."""

import math

import jax
import jax.numpy as jnp

from jaxdino.data.photometric.draws import normal, of_step, sometimes, uniform
from jaxdino.data.recipe import View

REACH = 3.0  # radius of the blur kernel, in standard deviations


def random_blur(keys: jax.Array, planes: jax.Array, view: View) -> jax.Array:
    """Blur each image with the view's probability, by a Gaussian whose sigma is drawn uniformly from its interval."""
    low, high = view.blur_sigma
    if not view.blur_prob or not high:
        return planes
    coins = jax.vmap(lambda key: jax.random.bernoulli(key, view.blur_prob))(of_step(keys, "blur_prob"))
    return gaussian_blur(planes, jnp.where(coins, uniform(keys, "blur", low, high), 0), math.ceil(REACH * high))


def gaussian_blur(planes: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Blur by Gaussians cut off at `radius` pixels, along the columns and then the rows.

    Where sigma (n,) is 0, the image is unchanged.
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


def random_motion_blur(keys: jax.Array, planes: jax.Array, view: View) -> jax.Array:
    """Blur each image with the view's probability along a line of random length and direction."""
    if not view.motion_blur_prob:
        return planes
    low, high = view.motion_blur_size
    radius = jnp.round(uniform(keys, "motion_blur_size", low / 2 - 0.5, high / 2 - 0.5))
    degrees = uniform(keys, "motion_blur_degrees", 0, 180)
    changed = motion_blur(planes, radius, degrees, math.ceil(high / 2 - 0.5))
    return sometimes(keys, "motion_blur", view.motion_blur_prob, changed, planes)


def motion_blur(planes: jax.Array, radius: jax.Array, degrees: jax.Array, reach: int) -> jax.Array:
    """Average each image along a line of 2 radius + 1 pixels through each pixel.

    Args:
      radius: (n,), whole numbers up to `reach`. degrees: (n,), from the x axis towards the bottom.

    Source: albumentations 1.4 MotionBlur (without its shift and direction), which rounds twice as many points on the
    line as it has pixels, and weighs each pixel that is met equally.
    """
    height, width = planes.shape[2:]
    padded = jnp.pad(planes, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    starts, weights = motion_taps(radius, degrees, reach)

    def one(image: jax.Array, corners: jax.Array, shares: jax.Array) -> jax.Array:
        size = (image.shape[0], height, width)
        shifted = (jax.lax.dynamic_slice(image, (0, row, column), size) for row, column in corners)
        return sum(part * shares[k] for k, part in enumerate(shifted))

    return jax.vmap(one)(padded, starts + reach, weights)


def motion_taps(radius: jax.Array, degrees: jax.Array, reach: int) -> tuple[jax.Array, jax.Array]:
    """Return the offsets of the pixels on each line, int32 (n, K, 2) of row and column, and their shares (n, K)."""
    places, points = jnp.arange(2 * (2 * reach + 1))[None], 2 * (2 * radius[:, None] + 1)
    along = 2 * radius[:, None] * places / (points - 1) - radius[:, None]
    angle = jnp.deg2rad(degrees)[:, None]
    offsets = jnp.round(jnp.stack([jnp.sin(angle) * along, jnp.cos(angle) * along], axis=-1)).astype(jnp.int32)
    new = (offsets != jnp.roll(offsets, 1, axis=1)).any(axis=-1) | (places == 0)
    counted = (new & (places < points)).astype(jnp.float32)
    return jnp.clip(offsets, -reach, reach), counted / counted.sum(axis=1, keepdims=True)


def add_noise(keys: jax.Array, planes: jax.Array, view: View) -> jax.Array:
    """Add Gaussian noise of the view's standard deviation to each value, and clip to 0..1."""
    if not view.noise:
        return planes
    return jnp.clip(planes + view.noise * normal(keys, "noise", planes.shape[1:]), 0, 1)
