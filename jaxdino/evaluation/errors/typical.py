"""The most and the least typical images of each class: by the distance of their features to the class mean."""

import dataclasses

import numpy as np

from jaxdino.evaluation.predictions import Predictions

FEWEST = 3
"""Images that a class needs."""


@dataclasses.dataclass(frozen=True)
class Typical:
    """Images of a class as rows of the predictions, with their distances: nearest first, and farthest first."""

    nearest: list[tuple[int, float]]
    farthest: list[tuple[int, float]]


def typical(found: Predictions, count: int) -> dict[int, Typical]:
    """Return {class: its `count` most and least typical images}; no image is in both, small classes have fewer.

    The distance is Euclidean, to the mean of the features of all images of the class in the split. Classes with fewer
    than `FEWEST` images are left out.
    """
    result = {}
    for place in range(len(found.names)):
        rows = np.flatnonzero(found.there[:, place])
        if len(rows) < FEWEST:
            continue
        features = found.features[rows].astype(np.float64)
        distances = np.linalg.norm(features - features.mean(axis=0), axis=1)
        order = np.argsort(distances, kind="stable")
        kept = min(count, len(rows) // 2)
        pairs = [(int(rows[i]), float(distances[i])) for i in order]
        result[place] = Typical(pairs[:kept], pairs[::-1][:kept])
    return result
