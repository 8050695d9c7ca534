"""Jitter and grey: brightness, contrast, saturation, hue, gamma, sharpness, on planes (n, C, H, W) in 0..1."""

import math

import jax
import jax.numpy as jnp

from jaxdino.data.photometric.draws import per_image, sometimes, uniform
from jaxdino.data.recipe import View

GREY = (0.2989, 0.587, 0.114)  # torchvision's luma weights
RGB = 3
CENTRE, AROUND = 5 / 13, 1 / 13  # Pillow's filter SMOOTH


def jitter(keys: jax.Array, planes: jax.Array, view: View) -> jax.Array:
    """Jitter brightness, contrast, saturation, hue, gamma and sharpness in this order; strengths are drawn per image.

    torchvision's ColorJitter also draws the order; a fixed order keeps the batch one fused computation. Images without
    red, green and blue get neither saturation nor hue.
    """
    changed = planes
    for name, change in ADJUSTED.items():
        strength = getattr(view, name)
        if not strength or (name in ("saturation", "hue") and planes.shape[1] != RGB):
            continue
        changed = change(changed, per_image(_strengths(keys, name, strength)))
    return planes if changed is planes else sometimes(keys, "jitter", view.jitter_prob, changed, planes)


def _strengths(keys: jax.Array, name: str, strength: float) -> jax.Array:
    """Draw (n,): turns of the hue, exponents of gamma, or factors."""
    if name == "hue":
        return uniform(keys, name, -strength, strength)
    if name == "gamma":
        return jnp.exp(uniform(keys, name, -math.log1p(strength), math.log1p(strength)))
    return uniform(keys, name, max(0.0, 1 - strength), 1 + strength)


def grey(keys: jax.Array, planes: jax.Array, view: View) -> jax.Array:
    """Replace the colours by their grey, in each image with the view's probability."""
    if not view.gray_prob or planes.shape[1] != RGB:
        return planes
    return sometimes(keys, "gray", view.gray_prob, jnp.broadcast_to(to_grey(planes), planes.shape), planes)


def to_grey(planes: jax.Array) -> jax.Array:
    """Return the luma, (n, 1, H, W)."""
    red, green, blue = (part * weight for part, weight in zip(jnp.split(planes, 3, axis=1), GREY, strict=True))
    return red + green + blue


def adjust_brightness(planes: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiply by `factor` (n, 1, 1, 1) and clip to 0..1."""
    return jnp.clip(planes * factor, 0, 1)


def adjust_contrast(planes: jax.Array, factor: jax.Array) -> jax.Array:
    """Scale each image about its mean grey by `factor` (1 keeps the image); without RGB, per band."""
    if planes.shape[1] == RGB:
        mean = to_grey(planes).mean(axis=(1, 2, 3), keepdims=True)
    else:
        mean = planes.mean(axis=(2, 3), keepdims=True)
    return jnp.clip(planes * factor + mean * (1 - factor), 0, 1)


def adjust_saturation(planes: jax.Array, factor: jax.Array) -> jax.Array:
    """Scale each pixel about its grey by `factor` (1 keeps the image)."""
    return jnp.clip(planes * factor + to_grey(planes) * (1 - factor), 0, 1)


def adjust_hue(planes: jax.Array, turns: jax.Array) -> jax.Array:
    """Shift every hue by `turns` (n, 1, 1, 1) of the colour circle; keep HSV saturation and value.

    Source: HSV as in Python's colorsys; the inverse as f(n) = v - (max - min) * clip(min(k, 4 - k), 0, 1),
    k = (n + 6 h) mod 6, with n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = jnp.split(planes, 3, axis=1)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    spread = value - jnp.minimum(jnp.minimum(red, green), blue)
    safe = jnp.where(spread > 0, spread, 1)
    sector = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )

    def channel(n: float) -> jax.Array:
        k = sector + 6 * turns + n
        k = k - 6 * jnp.floor(k / 6)  # same as % 6, but vectorised
        return value - spread * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.concatenate([channel(n) for n in (5.0, 3.0, 1.0)], axis=1)


def adjust_gamma(planes: jax.Array, exponent: jax.Array) -> jax.Array:
    """Raise each value to `exponent` (n, 1, 1, 1): above 1 darkens, below 1 brightens."""
    return jnp.maximum(planes, 0) ** exponent


def adjust_sharpness(planes: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with a smoothed image: factor (n, 1, 1, 1) 0 is smooth, 1 keeps the image, 2 is sharp."""
    return jnp.clip(planes * factor + smoothed(planes) * (1 - factor), 0, 1)


def smoothed(planes: jax.Array) -> jax.Array:
    """Return each pixel's weighted mean with its eight neighbours; the pixels of the edge are kept.

    Source: pytorch/vision torchvision/transforms/_functional_tensor.py _blurred_degenerate_image (Pillow's SMOOTH).
    """
    height, width = planes.shape[2:]
    if min(height, width) <= 2:
        return planes
    rows = planes[:, :, :-2] + planes[:, :, 1:-1] + planes[:, :, 2:]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = AROUND * sums + (CENTRE - AROUND) * planes[:, :, 1:-1, 1:-1]
    return planes.at[:, :, 1:-1, 1:-1].set(inner)


ADJUSTED = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
    "gamma": adjust_gamma,
    "sharpness": adjust_sharpness,
}
"""The view's fields of strengths -> what they change, in order."""
