"""Changes of the values of each band: autocontrast, equalise, solarise, posterise, invert, on planes in 0..1.

The definitions are Pillow's (`ImageOps`), which torchvision follows. `equalize` and `posterize` round to the 256 levels
of uint8 first; on such images all of them give Pillow's values.
"""

import jax
import jax.numpy as jnp

from jaxdino.data.photometric.draws import integers, per_image, sometimes
from jaxdino.data.recipe import View

LEVELS = 256


def random_autocontrast(keys: jax.Array, planes: jax.Array, view: View) -> jax.Array:
    """Stretch the values of each band to 0..1, in each image with the view's probability."""
    if not view.autocontrast_prob:
        return planes
    return sometimes(keys, "autocontrast", view.autocontrast_prob, autocontrast(planes), planes)


def random_equalize(keys: jax.Array, planes: jax.Array, view: View) -> jax.Array:
    """Equalise the histogram of each band, in each image with the view's probability."""
    if not view.equalize_prob:
        return planes
    return sometimes(keys, "equalize", view.equalize_prob, equalize(planes), planes)


def random_solarize(keys: jax.Array, planes: jax.Array, view: View) -> jax.Array:
    """Invert all values of at least the view's threshold, in each image with the view's probability."""
    if not view.solarize_prob:
        return planes
    return sometimes(keys, "solarize", view.solarize_prob, solarize(planes, view.solarize_threshold), planes)


def random_posterize(keys: jax.Array, planes: jax.Array, view: View) -> jax.Array:
    """Keep some of the leading bits of each value, in each image with the view's probability."""
    if not view.posterize_prob:
        return planes
    bits = per_image(integers(keys, "posterize_bits", *view.posterize_bits))
    return sometimes(keys, "posterize", view.posterize_prob, posterize(planes, bits), planes)


def random_invert(keys: jax.Array, planes: jax.Array, view: View) -> jax.Array:
    """Return the negative, of each image with the view's probability."""
    if not view.invert_prob:
        return planes
    return sometimes(keys, "invert", view.invert_prob, 1 - planes, planes)


def solarize(planes: jax.Array, threshold: float | jax.Array) -> jax.Array:
    """Invert the values at or above `threshold`, in 0..1."""
    # Half a level of slack: 128 of 255 is inverted despite rounding errors of earlier steps.
    return jnp.where(planes >= threshold - 0.5 / 255, 1 - planes, planes)


def posterize(planes: jax.Array, bits: jax.Array) -> jax.Array:
    """Keep the leading `bits` (n, 1, 1, 1), 1 to 8, of each level, and set the others to 0."""
    step = 2.0 ** (8 - bits)
    return jnp.floor(jnp.round(planes * 255) / step) * step / 255


def autocontrast(planes: jax.Array) -> jax.Array:
    """Stretch each band so that its smallest value is 0 and its largest is 1; one of a single value is kept."""
    low, high = (reduce(planes, axis=(2, 3), keepdims=True) for reduce in (jnp.min, jnp.max))
    spread = high - low
    return jnp.where(spread > 0, (planes - low) / jnp.where(spread > 0, spread, 1), planes)


def equalize(planes: jax.Array) -> jax.Array:
    """Spread the values of each band, so that all levels are about equally frequent.

    The loop over the bands keeps XLA from fusing the look-up with other steps, which takes several times as long.

    Source: python-pillow/Pillow src/PIL/ImageOps.py equalize.
    """

    def of_band(band: jax.Array) -> jax.Array:
        levels = jnp.clip(jnp.round(band * 255), 0, 255).astype(jnp.int32).reshape(len(band), -1)
        return jnp.take_along_axis(equalizing(histogram(levels)), levels, axis=1).reshape(band.shape) / 255

    return jnp.moveaxis(jax.lax.map(of_band, jnp.moveaxis(planes, 1, 0)), 0, 1)


def histogram(levels: jax.Array) -> jax.Array:
    """Count the levels 0..255 of int32 (n, N): int32 (n, 256)."""
    return jax.vmap(lambda image: jnp.zeros(LEVELS, jnp.int32).at[image].add(1))(levels)


def equalizing(counts: jax.Array) -> jax.Array:
    """Return the new level of each level, float32 (n, 256), from their counts, int32, of less than 2^24 pixels.

    XLA may divide once for each pixel: division of floats is fast, and exact once it is rounded down.
    """
    total = counts.sum(axis=1, keepdims=True)
    last = LEVELS - 1 - jnp.argmax(counts[:, ::-1] > 0, axis=1, keepdims=True)
    step = (total - jnp.take_along_axis(counts, last, axis=1)) // 255
    below = jnp.cumsum(counts, axis=1) - counts
    table = jnp.floor((below + step // 2).astype(jnp.float32) / jnp.maximum(step, 1))
    return jnp.where(step > 0, jnp.minimum(table, 255), jnp.arange(LEVELS, dtype=jnp.float32)[None])
