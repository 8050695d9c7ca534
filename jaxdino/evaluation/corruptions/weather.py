"""Weather: snow, frost and fog, on an image (H, W, C) in 0..1."""

import jax
import jax.numpy as jnp

from jaxdino.evaluation.corruptions.blurs import EXACT, moved, zooming

LUMA = (0.299, 0.587, 0.114)
ICE = (0.78, 0.86, 0.92)
"""The colour of generated frost."""


def snow(
    key: jax.Array, image: jax.Array, mean: float, spread: float, scale: float, least: float, *blur_and_keep: float
) -> jax.Array:
    """Brighten the image and add flakes: normal noise, enlarged, cut off below, blurred along a line; and turned.

    Args:
      mean, spread: of the noise. scale: its zoom factor. least: noise below it is 0. blur_and_keep: radius and sigma of
        the motion blur, and the share of the image that is not brightened.
    """
    radius, sigma, keep = blur_and_keep
    height, width, _ = image.shape
    drawn, turned = jax.random.split(key)
    layer = mean + spread * jax.random.normal(drawn, (height, width))
    down, across = (jnp.asarray(zooming(side, scale), jnp.float32) for side in (height, width))
    layer = jnp.einsum("hi,ij,wj->hw", down, layer, across, precision=EXACT)
    layer = jnp.where(layer < least, 0, jnp.clip(layer, 0, 1))[..., None]
    flakes = moved(layer, int(radius), sigma, jax.random.uniform(turned, minval=-135.0, maxval=-45.0))
    grey = sum(weight * image[..., i : i + 1] for i, weight in enumerate(LUMA))
    bright = jnp.maximum(image, grey * 1.5 + 0.5)
    return keep * image + (1 - keep) * bright + flakes + flakes[::-1, ::-1]


def plasma(key: jax.Array, height: int, width: int, decay: float) -> jax.Array:
    """Return a random field (H, W) of 0 to 1, by the diamond-square algorithm with wrapped edges.

    Args:
      decay: factor by which the noise falls from one level to the next finer one.
    """
    side = 1 << max(max(height, width) - 1, 1).bit_length()
    field, step, wobble = jnp.zeros((side, side)), side, 100.0
    while step >= 2:
        key, *keys = jax.random.split(key, 4)
        half = step // 2

        corners = field[::step, ::step]
        square = corners + jnp.roll(corners, -1, 0)
        field = field.at[half::step, half::step].set(_noisy(square + jnp.roll(square, -1, 1), wobble, keys[0]))
        middles = field[half::step, half::step]
        beside = middles + jnp.roll(middles, 1, 0) + corners + jnp.roll(corners, -1, 1)
        field = field.at[::step, half::step].set(_noisy(beside, wobble, keys[1]))
        above = middles + jnp.roll(middles, 1, 1) + corners + jnp.roll(corners, -1, 0)
        field = field.at[half::step, ::step].set(_noisy(above, wobble, keys[2]))
        step, wobble = half, wobble / decay
    field = field - field.min()
    return (field / field.max())[:height, :width]


def _noisy(total: jax.Array, size: float, key: jax.Array) -> jax.Array:
    """Return the mean of four points, given their sum, with noise."""
    return total / 4 + size * jax.random.uniform(key, total.shape, minval=-size, maxval=size)


def fog(key: jax.Array, image: jax.Array, amount: float, decay: float) -> jax.Array:
    """Add a random field, and scale the sum back to the image's largest value."""
    height, width, _ = image.shape
    most = image.max()
    return (image + amount * plasma(key, height, width, decay)[..., None]) * most / (most + amount)


def frost(key: jax.Array, image: jax.Array, keep: float, amount: float) -> jax.Array:
    """Add ice: ridges of two random fields, in a colour of its own. The published one adds crops of photographs."""
    height, width, _ = image.shape
    coarse, fine = (
        plasma(one, height, width, decay) for one, decay in zip(jax.random.split(key), (2.0, 1.4), strict=True)
    )
    ridges = jnp.clip(1.2 * (1 - jnp.abs(2 * coarse - 1)) * (0.4 + 0.6 * fine), 0, 1)
    return keep * image + amount * ridges[..., None] * jnp.asarray(ICE).reshape(1, 1, -1)
