"""The resize and crop of evaluation as a part of a program, for images of any size."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize

METHODS = {"bilinear": "linear", "bicubic": "cubic", "lanczos": "lanczos3"}
"""Filters of Pillow -> those of `jax.image`; both widen them when an image becomes smaller."""


def resized(images: jax.Array, size: tuple[int, int], how: Resize) -> jax.Array:
    """Resize images (B, H, W, C) uint8 of any size and crop their centre, uint8 (B, *size, C).

    The same as Pillow to one or two levels of 256: Pillow rounds after each axis, this once.

    Raises:
      UserError: for a filter that `jax.image` has not, and for a border around the image.
    """
    if how.interpolation not in METHODS or how.crop_mode == "border":
        what = f"crop_mode={how.crop_mode}" if how.crop_mode == "border" else f"interpolation={how.interpolation}"
        raise UserError(f"images with {what} cannot be resized inside a program: leave out --resize")
    batch, height, width, channels = images.shape
    scale, corner = placed(height, width, size, how)
    found = jax.image.scale_and_translate(
        images.astype(jnp.float32),
        (batch, *size, channels),
        (1, 2),
        scale,
        -corner,
        METHODS[how.interpolation],
        antialias=True,
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.clip(jnp.round(found), 0, 255).astype(jnp.uint8)


def placed(height: Any, width: Any, size: tuple[int, int], how: Resize) -> tuple[jax.Array, jax.Array]:
    """Return where (y, x) of an image is after the resize, scale * (y, x) - corner: scale (2,) and corner (2,)."""
    tall, wide = (jnp.asarray(one) for one in (height, width))
    rows, columns = _shape(tall, wide, size, how)
    scale = jnp.stack([rows / tall, columns / wide]).astype(jnp.float32)
    return scale, jnp.stack([_margin(rows - size[0], how), _margin(columns - size[1], how)]).astype(jnp.float32)


def _shape(height: Any, width: Any, size: tuple[int, int], how: Resize) -> tuple[Any, Any]:
    """Return (height, width) before the crop, as `Resize.shape` gives it for sizes known only when it runs."""
    tall, wide = (max(int(side / how.crop_pct + 1e-6), 1) for side in size)
    if how.crop_mode == "none":
        return height, width
    if how.crop_mode == "squash":
        return jnp.asarray(tall), jnp.asarray(wide)
    if tall == wide:
        upright = width <= height
        return jnp.where(upright, wide * height // width, tall), jnp.where(upright, wide, tall * width // height)
    ratio = jnp.minimum(height / tall, width / wide)
    return jnp.round(height / ratio).astype(jnp.int32), jnp.round(width / ratio).astype(jnp.int32)


def _margin(room: Any, how: Resize) -> Any:
    return jnp.round(room / 2) if how.crop_rounding == "even" else room // 2
