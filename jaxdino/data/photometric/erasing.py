"""Random erasing: one box of an image is set to its mean colour."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdino.data.photometric.draws import sometimes, uniform

TRIES = 10


def random_erase(
    keys: jax.Array, images: jax.Array, probability: float, area: Sequence[float], ratio: Sequence[float]
) -> jax.Array:
    """Set one random box of each normalised image (n, H, W, C) to 0, its mean colour, with the given probability.

    Args:
      area: smallest and largest share of the image; drawn up to ten times until the box fits.
      ratio: smallest and largest height / width, drawn uniformly in the logarithm.

    Source: huggingface/pytorch-image-models timm/data/random_erasing.py, mode "const".
    """
    if not probability:
        return images
    _, height, width, _ = images.shape
    share = uniform(keys, "erase_area", *area, (TRIES,)) * (height * width)
    low, high = jnp.log(jnp.asarray(ratio, jnp.float32))
    aspect = jnp.exp(low + (high - low) * uniform(keys, "erase_ratio", 0, 1, (TRIES,)))
    tall, wide = jnp.round(jnp.sqrt(share * aspect)), jnp.round(jnp.sqrt(share / aspect))
    fits = (tall < height) & (wide < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    tall, wide, found = (jnp.take_along_axis(x, first, axis=1) for x in (tall, wide, fits))
    place = uniform(keys, "erase_place", 0, 1, (2,))
    top = jnp.floor(place[:, :1] * (height - tall + 1))
    left = jnp.floor(place[:, 1:] * (width - wide + 1))
    inside = box_of(height, width, top, top + tall, left, left + wide) & found[:, :, None, None]
    return sometimes(keys, "erase", probability, jnp.where(inside, 0, images), images)


def box_of(height: int, width: int, top, bottom, left, right) -> jax.Array:
    """Return bool (B, H, W, 1), true inside the boxes with edges (B, 1); bottom and right are excluded."""
    rows = jnp.arange(height).reshape(1, height)
    columns = jnp.arange(width).reshape(1, width)
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]
