"""Learned position tables, resampled to another grid as in torch."""

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


def linear_matrix(n_in: int, n_out: int, corners: bool = False) -> np.ndarray:
    """Return the (n_out, n_in) float32 matrix of torch's `interpolate`, mode "linear" or "bilinear", for one axis.

    Without antialiasing; the border is repeated.

    Args:
      corners: torch's align_corners: the centres of the first and last pixels stay where they are.

    Source: pytorch/pytorch aten/src/ATen/native/UpSample.h (area_pixel_compute_source_index).
    """
    if corners:
        step = np.float32(n_in - 1) / np.float32(n_out - 1) if n_out > 1 else np.float32(0)
        centre = np.arange(n_out, dtype=np.float32) * step
    else:
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
