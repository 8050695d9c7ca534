"""Extract the features of a whole split to the host, the first step of every evaluation here."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdino.core.errors import UserError
from jaxdino.evals.passes import Arrays, Batches, outputs


class NoImages(UserError):
    """There was no image to extract features from."""


def extract(
    embed: Callable[[Any], jax.Array], batches: Batches, mesh: Mesh | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return features float32 (N, D) and labels int32 (N,) of all readable images, in order.

    Rows of weight 0 (padding, unreadable images) are left out.

    Args:
      embed: compiled function, images uint8 (B, H, W, 3) -> (B, D).
      batches: dicts of "image", "label" and "weight", as from `data.pipeline`; in each process, its part.
      mesh: shards each batch over its devices; every process gets the result of all processes.

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
        raise NoImages("no image to extract features from: the split is empty, or every image in it was skipped")
    return np.concatenate(features), np.concatenate(labels)


def pixels(batches: Batches, size: int, mesh: Mesh | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return raw pixels as features, a baseline for trained features. Otherwise as `extract`.

    Each image is reduced to (size, size) with antialias and its mean is subtracted, so that the cosine of two images
    is the correlation of their pixels: otherwise brightness would dominate.

    Returns:
      features float32 (N, 3 size size), labels int32 (N,).
    """
    return extract(jax.jit(lambda images: flattened(images, size)), batches, mesh)


def flattened(images: jax.Array, size: int) -> jax.Array:
    """Reduce images (B, H, W, C) of 0..255 to float32 (B, size size C) of mean 0."""
    b, _, _, channels = images.shape
    small = jax.image.resize(images.astype(jnp.float32) / 255, (b, size, size, channels), "linear", antialias=True)
    rows = small.reshape(b, -1)
    return rows - rows.mean(axis=1, keepdims=True)
