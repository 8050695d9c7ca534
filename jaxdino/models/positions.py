"""Patch positions: learned position tables resampled as in torch, and DINOv3's rotary embedding."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Evaluate Keys' cubic convolution kernel with parameter `a` (Keys 1981), zero beyond |x| = 2."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def bicubic_matrix(n_in: int, n_out: int, scale: float, antialias: bool) -> np.ndarray:
    """Return the (n_out, n_in) float32 matrix that resamples one axis as torch's bicubic `interpolate`.

    Args:
      scale: input pixels per output pixel: n_in / n_out, or 1 / scale_factor if torch is given one.
      antialias: torch's antialias=True: kernel a = -0.5, widened when shrinking, renormalised at the border;
        otherwise a = -0.75 with the border pixel repeated.

    Source: pytorch/pytorch aten/src/ATen/native/cpu/UpSampleKernel.cpp and UpSample.h (align_corners=False).
    """
    centre = scale * (np.arange(n_out) + 0.5)
    columns = np.arange(n_in)
    if antialias:
        stretch = max(scale, 1.0)
        distance = columns[None, :] + 0.5 - centre[:, None]
        low = np.maximum((centre - 2 * stretch + 0.5).astype(int), 0)
        high = np.minimum((centre + 2 * stretch + 0.5).astype(int), n_in)
        inside = (columns[None, :] >= low[:, None]) & (columns[None, :] < high[:, None])
        weights = np.where(inside, _cubic(distance / stretch, a=-0.5), 0.0)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    base = np.floor(centre - 0.5).astype(int)
    matrix = np.zeros((n_out, n_in))
    for tap in range(-1, 3):
        weight = _cubic(centre - 0.5 - (base + tap), a=-0.75)
        np.add.at(matrix, (np.arange(n_out), np.clip(base + tap, 0, n_in - 1)), weight)
    return matrix.astype(np.float32)


def linear_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Return the (n_out, n_in) float32 matrix of torch's `interpolate`, mode "linear" or "bilinear", for one axis.

    Without antialiasing, align_corners=False; the border is repeated.
    Source: pytorch/pytorch aten/src/ATen/native/UpSample.h (area_pixel_compute_source_index).
    """
    step, half = np.float32(n_in) / np.float32(n_out), np.float32(0.5)  # float32, as torch computes it
    centre = np.maximum((np.arange(n_out, dtype=np.float32) + half) * step - half, np.float32(0))
    low = np.minimum(centre.astype(int), n_in - 1)
    matrix = np.zeros((n_out, n_in), np.float32)
    np.add.at(matrix, (np.arange(n_out), low), 1 - (centre - low))
    np.add.at(matrix, (np.arange(n_out), np.minimum(low + 1, n_in - 1)), centre - low)
    return matrix


def resample_grid(table_hxwxD: jax.Array, size: tuple[int, int], *, offset: float, antialias: bool) -> jax.Array:
    """Resample a learned position grid (h, w, D) to another size (h', w', D), float32.

    Args:
      offset: DINO and DINOv2 add 0.1 to the target size when they compute the scale factor, and torch then
        samples with that factor; 0 for all others.
      antialias: as in `bicubic_matrix`.

    Source: facebookresearch/dinov2 dinov2/models/vision_transformer.py (interpolate_pos_encoding).
    """
    h, w = table_hxwxD.shape[:2]
    if (h, w) == size:
        return table_hxwxD
    rows, columns = (
        jnp.asarray(bicubic_matrix(n_in, n_out, n_in / (n_out + offset), antialias))
        for n_in, n_out in zip((h, w), size, strict=True)
    )
    table = table_hxwxD.astype(jnp.float32)
    return jnp.einsum("ph,qw,hwd->pqd", rows, columns, table, precision="highest")


def rope_periods(head_dim: int, base: float) -> np.ndarray:
    """Return DINOv3's rotary periods base^(4 i / head_dim), i < head_dim / 4, float32.

    Meta's released checkpoints hold them rounded to bfloat16, and an import keeps the values of the file; this formula
    is for layouts without them. Source: facebookresearch/dinov3 dinov3/layers/rope_position_encoding.py.
    """
    exponent = np.arange(head_dim // 4, dtype=np.float32) * np.float32(4 / head_dim)
    return np.float32(base) ** exponent


def rope_angles(h: int, w: int, periods: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return sin and cos (h * w, head_dim) float32 for a patch grid, y angles before x angles, tiled twice.

    Patch centres are normalised to [-1, 1] on each axis separately ("separate").
    Source: facebookresearch/dinov3 dinov3/layers/rope_position_encoding.py.
    """
    ys = 2.0 * (np.arange(h, dtype=np.float32) + 0.5) / h - 1.0
    xs = 2.0 * (np.arange(w, dtype=np.float32) + 0.5) / w - 1.0
    centres = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(h * w, 2, 1).astype(np.float32)
    angles = 2.0 * math.pi * jnp.asarray(centres) / periods.astype(jnp.float32)[None, None, :]
    angles = jnp.tile(angles.reshape(h * w, -1), (1, 2))
    return jnp.sin(angles), jnp.cos(angles)


def rotate(x_BxHxNxd: jax.Array, sin: jax.Array, cos: jax.Array) -> jax.Array:
    """Rotate the last `len(sin)` tokens by their angles; class and register tokens before them are unchanged.

    float32 inside, x's dtype out. Source: facebookresearch/dinov3 dinov3/layers/attention.py (apply_rope).
    """
    prefix = x_BxHxNxd.shape[2] - sin.shape[0]
    patches = x_BxHxNxd[:, :, prefix:].astype(jnp.float32)
    first, second = jnp.split(patches, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    patches = patches * cos[None, None] + turned * sin[None, None]
    return jnp.concatenate([x_BxHxNxd[:, :, :prefix], patches.astype(x_BxHxNxd.dtype)], axis=2)
