"""The features of a whole split, brought to the host: the start of every evaluation here."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdino.core.errors import UserError
from jaxdino.evals.passes import Arrays, Batches, outputs


class NoImages(UserError):
    """There was nothing to take features of."""


def extract(
    embed: Callable[[Any], jax.Array], batches: Batches, mesh: Mesh | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 (N, D) and labels int32 (N,) of all images that could be read, in order.

    Rows of weight 0 (padding, unreadable images) are left out.

    Args:
      embed: compiled, images uint8 (B, H, W, 3) -> (B, D).
      batches: dicts of "image", "label" and "weight", as `data.pipeline` gives them; of one process, its part.
      mesh: shares each batch out over its devices; the result, of all processes, is whole on every one.

    Raises:
      NoImages: if no image could be read.
    """

    def step(batch: Arrays) -> Arrays:
        return {"features": embed(batch["image"]), "label": batch["label"], "weight": batch["weight"]}

    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for found in outputs(step, batches, ("image", "label", "weight"), mesh):
        read = found["weight"] > 0
        features.append(np.asarray(found["features"], np.float32)[read])
        labels.append(np.asarray(found["label"], np.int32)[read])
    if not sum(map(len, labels)):
        raise NoImages("no image to take features of: the split is empty, or every image in it was skipped")
    return np.concatenate(features), np.concatenate(labels)


def pixels(batches: Batches, size: int, mesh: Mesh | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Raw pixels as features: what any training has to beat. As `extract`.

    Each image is shrunk to (size, size) with antialias and less its own mean, so that the cosine between two is the
    correlation of their pixels: without it, brightness alone would tell them apart.

    Returns:
      features float32 (N, 3 size size), labels int32 (N,).
    """
    return extract(jax.jit(lambda images: flattened(images, size)), batches, mesh)


def flattened(images: jax.Array, size: int) -> jax.Array:
    """Images (B, H, W, C) of 0..255 -> float32 (B, size size C) of mean 0."""
    b, _, _, channels = images.shape
    small = jax.image.resize(images.astype(jnp.float32) / 255, (b, size, size, channels), "linear", antialias=True)
    rows = small.reshape(b, -1)
    return rows - rows.mean(axis=1, keepdims=True)
