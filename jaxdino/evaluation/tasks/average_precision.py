"""COCO's average precision of many resamples of the images at once, from the matches that pycocotools found."""

import numpy as np

from jaxdino.evals.detection import DetectionEvaluator

RECALLS = np.linspace(0, 1, 101)
TINY = np.spacing(1)
T50, T75 = 0, 5  # places of 0.50 and 0.75 among the ten overlaps


class AveragePrecision:
    """The statistic of COCO's metrics: counts (R, N) -> map, map50, map75 (R,), class/ap and class/ap50 (R, C).

    With every image once, the values are pycocotools'.

    Args:
      evaluator: with all images. images, classes: their numbers.

    Source: cocodataset/cocoapi PythonAPI/pycocotools/cocoeval.py, accumulate.
    """

    def __init__(self, evaluator: DetectionEvaluator, images: int, classes: int):
        self.images, self.classes = images, classes
        self._parts = [_Class(evaluator.matches(label), images) for label in range(classes)]

    def __call__(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Return the metrics; a class without any object in a resample is nan, and left out of its means."""
        table = np.stack([part(counts) for part in self._parts], axis=2)  # (R, T, C)
        known = ~np.isnan(table[:, 0])
        mean = lambda values: np.divide(  # noqa: E731
            np.where(known, values, 0).sum(axis=1),
            known.sum(axis=1),
            out=np.full(len(counts), np.nan),
            where=known.any(axis=1),
        )
        each = table.mean(axis=1)
        found = {"map": mean(each), "map50": mean(table[:, T50]), "map75": mean(table[:, T75])}
        return found | {"class/ap": each, "class/ap50": table[:, T50]}


class _Class:
    """The detections of one class by falling score, and the objects of each image.

    Args:
      matches: for each image (scores (D,), hit bool (T, D), ignored bool (T, D), number of objects), or None.
    """

    def __init__(self, matches: list[tuple[np.ndarray, np.ndarray, np.ndarray, int] | None], images: int):
        self._objects = np.array([0 if one is None else one[3] for one in matches], np.float64)
        there = [(row, one) for row, one in enumerate(matches) if one is not None]
        scores = np.concatenate([np.zeros(0), *(one[0] for _, one in there)])
        order = np.argsort(-scores, kind="mergesort")
        self._image = np.concatenate([np.zeros(0, int), *(np.full(len(one[0]), row) for row, one in there)])[order]
        self._image = self._image.astype(int)
        self._hit, self._passed = (
            np.concatenate([np.zeros((10, 0), bool), *(one[n] for _, one in there)], axis=1)[:, order] for n in (1, 2)
        )

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Return the average precision at each overlap (R, T); nan without an object."""
        total = counts @ self._objects
        found = np.full((len(counts), len(self._hit)), np.nan)
        right, wrong = self._hit & ~self._passed, ~self._hit & ~self._passed
        for row in np.flatnonzero(total):  # one at a time: there may be a hundred detections for each image
            drawn = counts[row, self._image]
            for place in range(len(self._hit)):
                hits, false = np.cumsum(drawn * right[place]), np.cumsum(drawn * wrong[place])
                precision = hits / (hits + false + TINY)
                precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
                found[row, place] = precision[np.searchsorted(hits / total[row], RECALLS, side="left")].mean()
        return found
