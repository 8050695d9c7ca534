"""Digital changes: brightness, contrast, elastic transform, pixelation, JPEG, on an image (H, W, C) in 0..1."""

import io
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from jaxdino.data.image_file import open_bytes
from jaxdino.evaluation.corruptions.blurs import EXACT

TRUNCATE = 3  # standard deviations of the blur of an elastic transform


def brightness(key: jax.Array, image: jax.Array, more: float) -> jax.Array:
    """Add to the value of HSV, keeping hue and saturation: all channels are multiplied alike."""
    value = image.max(axis=-1, keepdims=True)
    raised = jnp.clip(value + more, 0, 1)
    return jnp.where(value > 0, image * raised / jnp.where(value > 0, value, 1), raised)


def contrast(key: jax.Array, image: jax.Array, factor: float) -> jax.Array:
    """Scale each channel about its mean."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return (image - mean) * factor + mean


def elastic(key: jax.Array, image: jax.Array, amount: float, sigma: float, shift: float) -> jax.Array:
    """Move three points by up to `shift` pixels (an affine map), then each pixel by a smooth random field.

    Args:
      amount: factor of the field, uniform in -1..1 and blurred by `sigma` pixels.
    """
    height, width, _ = image.shape
    affine, horizontal, vertical = jax.random.split(key, 3)
    moves = jax.random.uniform(affine, (3, 2), minval=-shift, maxval=shift)
    centre, size = np.array([height // 2, width // 2], np.float32), min(height, width) // 3
    points = np.stack([centre + size, [centre[0] + size, centre[1] - size], centre - size]).astype(np.float32)
    ones = jnp.ones((3, 1))
    back = jnp.linalg.solve(jnp.concatenate([points + moves, ones], axis=1), jnp.asarray(points))  # (3, 2)
    y, x = jnp.meshgrid(jnp.arange(height, dtype=jnp.float32), jnp.arange(width, dtype=jnp.float32), indexing="ij")
    from_x, from_y = (x * back[0, i] + y * back[1, i] + back[2, i] for i in (0, 1))
    image = _sampled(image, from_y, from_x, "mirror")
    blur = [
        jnp.asarray(gaussian_filter1d(np.eye(side), sigma, axis=0, mode="reflect", truncate=TRUNCATE), jnp.float32)
        for side in (height, width)
    ]
    fields = (jax.random.uniform(one, (height, width), minval=-1.0, maxval=1.0) for one in (vertical, horizontal))
    down, across = (amount * jnp.einsum("hi,ij,wj->hw", blur[0], f, blur[1], precision=EXACT) for f in fields)
    return _sampled(image, y + down, x + across, "reflect")


def _sampled(image: jax.Array, y: jax.Array, x: jax.Array, mode: str) -> jax.Array:
    """Return the image at places (H, W), interpolated linearly."""
    planes = [map_coordinates(image[..., i], [y, x], order=1, mode=mode) for i in range(image.shape[-1])]
    return jnp.stack(planes, axis=-1)


def pixelate(key: jax.Array, image: jax.Array, scale: float) -> jax.Array:
    """Reduce to a share of the size and enlarge again, both by Pillow's box filter, which rounds after each pass."""
    levels = jnp.round(image * 255)
    height, width, _ = image.shape
    for rows, columns in ((int(height * scale), int(width * scale)), (height, width)):
        across, down = box(levels.shape[1], max(columns, 1)), box(levels.shape[0], max(rows, 1))
        levels = _rounded(jnp.einsum("hwc,wx->hxc", levels, across, precision=EXACT))
        levels = _rounded(jnp.einsum("hwc,hy->ywc", levels, down, precision=EXACT))
    return levels / 255


def _rounded(levels: jax.Array) -> jax.Array:
    return jnp.floor(levels + 0.5 + 1e-4)


def box(side: int, size: int) -> jax.Array:
    """Return the matrix (side, size) by which Pillow's box filter resizes a row."""
    return jnp.asarray(
        np.asarray(Image.fromarray(np.eye(side, dtype=np.float32)).resize((size, side), Image.Resampling.BOX))
    )


def jpeg_files(images: np.ndarray, quality: int) -> np.ndarray:
    """Return images (B, H, W, 3) in 0..1 as read back from JPEG files, written and read by libjpeg on the host."""

    def of_one(levels: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "JPEG", quality=quality)
        with open_bytes(file) as found:
            return np.asarray(found)

    with ThreadPoolExecutor() as pool:  # libjpeg works outside of Python's lock
        found = list(pool.map(of_one, np.rint(np.asarray(images) * 255).clip(0, 255).astype(np.uint8)))
    return np.stack(found).astype(np.float32) / 255
