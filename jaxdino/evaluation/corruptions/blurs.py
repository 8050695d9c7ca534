"""Blurs: defocus, frosted glass, motion and zoom, on an image (H, W, C) in 0..1."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import convolve1d

from jaxdino.data.photometric.blurs import gaussian_blur

EXACT = jax.lax.Precision.HIGHEST


def disk(radius: int, sigma: float) -> np.ndarray:
    """Return the kernel of defocus: a disk, smoothed by 3 or 5 taps of a Gaussian as OpenCV's GaussianBlur does."""
    reach, taps = (8, 3) if radius <= 8 else (radius, 5)
    side = np.arange(-reach, reach + 1)
    inside = (side.reshape(-1, 1) ** 2 + side.reshape(1, -1) ** 2 <= radius**2).astype(np.float64)
    offsets = np.arange(taps) - taps // 2
    gauss = np.exp(-(offsets**2) / (2 * sigma**2))
    found = inside / inside.sum()
    for axis in (0, 1):
        found = convolve1d(found, gauss / gauss.sum(), axis=axis, mode="mirror")
    return found.astype(np.float32)


def defocus(key: jax.Array, image: jax.Array, radius: int, sigma: float) -> jax.Array:
    """Convolve with a disk; beyond the edges the image is mirrored about its outermost pixels."""
    kernel = jnp.asarray(disk(radius, sigma))
    reach = kernel.shape[0] // 2
    padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    planes = jnp.moveaxis(padded, -1, 0)[:, None]
    found = jax.lax.conv_general_dilated(planes, kernel[None, None], (1, 1), "VALID", precision=EXACT)
    return jnp.moveaxis(found[:, 0], 0, -1)


def _smoothed(image: jax.Array, sigma: float) -> jax.Array:
    """Blur as skimage's gaussian does: 4 standard deviations wide, edge pixels repeated."""
    planes = jnp.moveaxis(image, -1, 0)[None]
    return jnp.moveaxis(gaussian_blur(planes, jnp.full((1,), sigma), int(4 * sigma + 0.5))[0], 0, -1)


def glass(key: jax.Array, image: jax.Array, sigma: float, reach: int, times: int) -> jax.Array:
    """Blur, swap each pixel with a near one, and blur again. The swaps are drawn once, the same for all images."""
    height, width, channels = image.shape
    levels = jnp.floor(jnp.clip(_smoothed(image, sigma), 0, 1) * 255 + 1e-3) / 255
    order = jnp.asarray(swapped(height, width, reach, times))
    return _smoothed(levels.reshape(-1, channels)[order].reshape(image.shape), sigma)


@functools.lru_cache(maxsize=16)
def swapped(height: int, width: int, reach: int, times: int) -> np.ndarray:
    """Return which pixel is where, int32 (H W,), after `times` times swaps from the last pixel to the first."""
    rng, order = np.random.default_rng(0), list(range(height * width))
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    for _ in range(times):
        moves = iter(rng.integers(-reach, reach, (len(rows) * len(columns), 2)).tolist())
        for y in rows:
            for x in columns:
                right, down = next(moves)
                here, there = y * width + x, (y + down) * width + x + right
                order[here], order[there] = order[there], order[here]
    return np.array(order, np.int32)


def moved(image: jax.Array, radius: int, sigma: float, angle: jax.Array) -> jax.Array:
    """Blur along a line to one side of each pixel, as ImageMagick's MotionBlurImage does; edge pixels are repeated.

    Args:
      radius: the kernel has 2 radius + 1 taps, half of a Gaussian. angle: in degrees, clockwise from the right.
    """
    height, width, _ = image.shape
    count = 2 * radius + 1
    taps = np.exp(-(np.arange(count) ** 2) / (2 * sigma**2))
    taps = taps / taps.sum()
    across, down = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
    rows, columns = jnp.arange(height), jnp.arange(width)
    found = jnp.zeros_like(image)
    for step, tap in enumerate(taps.tolist()):
        y = jnp.clip(rows + jnp.ceil(step * down - 0.5).astype(jnp.int32), 0, height - 1)
        x = jnp.clip(columns + jnp.ceil(step * across - 0.5).astype(jnp.int32), 0, width - 1)
        found += tap * image[y][:, x]
    return found


def motion(key: jax.Array, image: jax.Array, radius: int, sigma: float) -> jax.Array:
    """Blur along a line in a direction of -45 to 45 degrees."""
    return moved(image, radius, sigma, jax.random.uniform(key, minval=-45.0, maxval=45.0))


def zooming(side: int, factor: float) -> np.ndarray:
    """Return the matrix (side, side) that zooms into the middle of a row: scipy's zoom of order 1, then trimmed.

    Source: hendrycks/robustness make_imagenet_c.py clipped_zoom.
    """
    inner = math.ceil(side / factor)
    top, size = (side - inner) // 2, round(inner * factor)
    trim = (size - side) // 2
    places = top + np.arange(size)[trim : trim + side] * ((inner - 1) / max(size - 1, 1))
    low = np.clip(np.floor(places).astype(int), 0, side - 1)
    high, part = np.minimum(low + 1, side - 1), places - low
    found = np.zeros((side, side))
    rows = np.arange(side)
    np.add.at(found, (rows, low), 1 - part)
    np.add.at(found, (rows, high), part)
    return found


def zoom(key: jax.Array, image: jax.Array, end: float, step: float) -> jax.Array:
    """Average the image with itself at zoom factors from 1 up to `end`."""
    factors = np.arange(1, end, step)
    height, width, _ = image.shape
    down = np.stack([zooming(height, factor) for factor in factors])
    across = np.stack([zooming(width, factor) for factor in factors])
    matrices = [jnp.asarray(matrix, jnp.float32) for matrix in (down, across)]
    total = jnp.einsum("zhi,ijc,zwj->hwc", matrices[0], image, matrices[1], precision=EXACT)
    return (image + total) / (len(factors) + 1)
