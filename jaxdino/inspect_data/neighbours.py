"""Features of the images by a backbone, and the pairs of images whose features are close."""

import functools
from typing import Any

import numpy as np

from jaxdino.core.bars import bar
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Split
from jaxdino.evals import features, knn, pools, report
from jaxdino.inspect_data.calibration import Embed
from jaxdino.inspect_data.images import Images
from jaxdino.inspect_data.pixels import Facts

NEAREST = 10  # images that each is paired with, at most


def features_of(images: Images, facts: Facts, embed: Embed) -> tuple[np.ndarray, np.ndarray]:
    """Return features float32 (M, D) of the images that can be read, and their numbers int64 (M,).

    Memory is 4 M D bytes: 1.5 GB for a million images of 384 features.

    Args:
      embed: returns the features and labels of a split's readable images, see `embedded`.

    Raises:
      UserError: if no image could be read.
    """
    rows = np.flatnonzero(facts.read).astype(np.int32)
    if not rows.size:
        raise features.NoImages("no image can be read: there are no features to compare")
    found, numbers = embed(Split("images", [images.records[row] for row in rows], {"label": rows}))
    return found, numbers.astype(np.int64)


def embedded(split: Split, model: Any, data: DataConfig, pool: str, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features float32 (M, D) and labels int32 (M,) of the images of a split that can be read.

    Args:
      model: as from `jaxdino.load`. data: how images are read. pool: a key of `pools.FEATURES`.
    """
    batches = report.batches_of(split, data, model, batch_size)
    look = functools.partial(pools.look, model, name=pool)
    return features.extract(look, bar(batches, f"features of {split.name}", unit="batch"))


def similar(found: np.ndarray, rows: np.ndarray, cosine: float) -> np.ndarray:
    """Return pairs of images int64 (P, 2) whose features have at least that cosine; each once, i < j.

    An image is paired with at most `NEAREST` others, the nearest ones.

    Args:
      found, rows: as `features_of` returns them.
    """
    if len(rows) < 2:
        return np.zeros((0, 2), np.int64)
    cosines, places = knn.neighbours(found, found, min(NEAREST + 1, len(rows)))
    one, rank = np.nonzero(cosines >= cosine)
    pairs = np.sort(np.stack([rows[one], rows[places[one, rank]]], axis=1), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
