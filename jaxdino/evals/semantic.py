"""Metrics of semantic segmentation, from a confusion matrix of pixels: IoU per class and their mean, accuracies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdino.evals.boundary import boundary_f1
from jaxdino.evals.segmentation import IGNORED

NAMES = ("miou", "pixel_accuracy", "mean_accuracy", "dice", "loss")
BOUNDARY = "boundary_f1"


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Count the pixels of each true class (row) by predicted class (column): int64 (classes, classes).

    Args:
      truth: integers of any shape, 0 to classes - 1, or 255 for pixels that are not counted.
      prediction: integers of the same shape, 0 to classes - 1.

    Raises:
      ValueError: for other shapes or values.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"the truth has shape {truth.shape}, the prediction {prediction.shape}")
    kept = truth != IGNORED
    true, found = truth[kept].astype(np.int64), prediction[kept].astype(np.int64)
    for name, values in (("truth", true), ("prediction", found)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"the {name} has the classes {values.min()} to {values.max()}; there are {classes}")
    return np.bincount(true * classes + found, minlength=classes**2).reshape(classes, classes)


class SemanticEvaluator:
    """Count the pixels of a split and compute its metrics. See `jaxdino.evals.evaluator.Evaluator`.

    All pixels of the split are counted in one confusion matrix, so large images weigh more than small ones.
      iou/<class>: pixels of the class that are found, divided by the pixels where it is true or predicted.
      miou: mean of iou over the classes that are true or predicted in any pixel. A class that is predicted, but in no
        mask of the split, counts as 0, as in mmsegmentation and torchmetrics.
      pixel_accuracy: share of the pixels with the right class.
      mean_accuracy: mean over the classes in the masks of the share of their pixels that are found.
      dice: mean over the classes of `miou` of twice the found pixels, divided by the true and the predicted ones.
      boundary_f1: mean over the images of `boundary.boundary_f1`, if `boundaries` is set.
      loss: mean over the pixels, of the losses that are given.
    Pixels of 255 in the mask count nowhere. Without pixels (or losses), metrics are nan.

    Attributes:
      names: the metrics, as in `compute`.
      matrix: the counts so far, see `confusion`.

    Source: open-mmlab/mmsegmentation mmseg/evaluation/metrics/iou_metric.py.
    """

    def __init__(self, class_names: Sequence[str], boundaries: bool = False):
        self.class_names = tuple(class_names)
        self.names = (*NAMES, *(f"iou/{name}" for name in self.class_names))
        self.matrix = np.zeros((len(self.class_names),) * 2, np.int64)
        self.boundaries: list[float] | None = [] if boundaries else None
        self._loss = 0.0
        self._with_loss = 0

    def update(self, found: Mapping[str, Any]) -> None:
        """Count the pixels of some images.

        Args:
          found: prediction and mask, label maps of B images: arrays (B, H, W), or lists of (H, W) of any sizes;
            optionally loss (B,), the sum over the counted pixels of each image.

        Raises:
          ValueError: as `confusion`.
        """
        for prediction, mask in zip(found["prediction"], found["mask"], strict=True):
            self.matrix += confusion(mask, prediction, len(self.class_names))
            if self.boundaries is not None:
                self.boundaries.append(boundary_f1(np.asarray(mask), np.asarray(prediction)))
        if "loss" in found:
            self._loss += float(np.sum(found["loss"], dtype=np.float64))
            self._with_loss += sum(int((np.asarray(mask) != IGNORED).sum()) for mask in found["mask"])

    def compute(self) -> dict[str, float]:
        """Return {metric: value}, without the iou of the classes in `absent`."""
        matrix = self.matrix.astype(np.float64)
        hits, truth, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        either = truth + predicted - hits
        iou = _shares(hits, either)
        return {
            "miou": _mean(iou[either > 0]),
            "pixel_accuracy": float(_shares(hits.sum(), matrix.sum())),
            "mean_accuracy": _mean(_shares(hits, truth)[truth > 0]),
            "dice": _mean(_shares(2 * hits, truth + predicted)[either > 0]),
            **self._boundary(),
            "loss": float(_shares(self._loss, self._with_loss)),
            **{f"iou/{name}": float(iou[row]) for row, name in enumerate(self.class_names) if either[row] > 0},
        }

    def _boundary(self) -> dict[str, float]:
        if self.boundaries is None:
            return {}
        found = [score for score in self.boundaries if not np.isnan(score)]
        return {BOUNDARY: float(np.mean(found)) if found else float("nan")}

    @property
    def absent(self) -> tuple[str, ...]:
        """The classes that no pixel has, in the masks or in the predictions: they are left out of the means."""
        found = self.matrix.sum(axis=0) + self.matrix.sum(axis=1)
        return tuple(name for name, pixels in zip(self.class_names, found, strict=True) if not pixels)

    @property
    def invented(self) -> tuple[str, ...]:
        """The classes that are predicted, but in no mask: their IoU is 0."""
        truth, found = self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        return tuple(name for row, name in enumerate(self.class_names) if found[row] and not truth[row])


def _shares(part: Any, whole: Any) -> np.ndarray:
    """Return part / whole, nan where the whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
