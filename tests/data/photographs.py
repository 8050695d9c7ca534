"""Images that look like photographs, for tests of augmentation."""

import jax.numpy as jnp
import numpy as np
from PIL import Image


def photographs(count=4, height=40, width=48, seed=1, bands=3):
    """uint8 (n, H, W, bands), smooth with some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 7, bands), np.uint8)
    large = [
        np.stack([Image.fromarray(band).resize((width, height), 3) for band in image.transpose(2, 0, 1)], -1)
        for image in coarse
    ]
    return np.clip(np.stack(large) + rng.normal(0, 10, (count, height, width, bands)), 0, 255).astype(np.uint8)


def planes(images):
    """uint8 (n, H, W, C) -> float (n, C, H, W) in 0..1."""
    return jnp.moveaxis(jnp.asarray(images), -1, 1).astype(jnp.float32) / 255


def levels(found):
    """Planes in 0..1 -> images in 0..255, not rounded."""
    return np.moveaxis(np.asarray(found), 1, -1) * 255
