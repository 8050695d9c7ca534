"""What is known of depth without looking at an image: the median of the training maps at each place."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdino.data.bad_images import BadImage
from jaxdino.data.record import Split
from jaxdino.evals.depth import DepthEvaluator

GRID = 64  # side of the map of medians
SAMPLE = 200  # maps whose median is taken


def maps(split: Split, max_pixels: int, most: int | None = None) -> Iterator[np.ndarray]:
    """Yield the depth maps of a split that can be read, float32 (H, W), at most so many, evenly spaced."""
    values: Sequence[Any] = split.fields["depth"]
    count = len(values) if most is None else min(most, len(values))
    for row in np.unique(np.linspace(0, len(values) - 1, count).astype(int)).tolist():
        with contextlib.suppress(BadImage):  # named when the image is read
            yield values[row](max_pixels) if callable(values[row]) else values[row]


def nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map (h, w) to (H, W) by the nearest value."""
    rows, columns = (((np.arange(b) + 0.5) * a / b).astype(int) for a, b in zip(values.shape, size, strict=True))
    return values[rows[:, None], columns[None]]


def median_map(split: Split, max_pixels: int) -> np.ndarray:
    """Return the median of the known depths at each place, float64 (`GRID`, `GRID`) over up to `SAMPLE` maps.

    Places whose depth no map knows have the median of all.
    """
    stack = np.stack([nearest(one, (GRID, GRID)) for one in maps(split, max_pixels, SAMPLE)]).astype(np.float64)
    stack[stack <= 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of places that are never known
        found = np.nanmedian(stack, axis=0)
    return np.where(np.isnan(found), np.nanmedian(stack), found)


def of_medians(train: Split, split: Split, max_pixels: int, evaluator: DepthEvaluator) -> dict[str, float]:
    """Return the metrics of predicting the median of the training maps for each image of a split."""
    typical = median_map(train, max_pixels)
    for depth in maps(split, max_pixels):
        evaluator.update({"prediction": [nearest(typical, (depth.shape[0], depth.shape[1]))], "depth": [depth]})
    return evaluator.compute()
