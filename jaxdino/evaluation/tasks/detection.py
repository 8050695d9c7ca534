"""Runs that find objects with boxes: COCO's average precision, its curves, and a confusion of classes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
from PIL import Image

from jaxdino.api.detector import Detector
from jaxdino.data.bad_images import BadImage
from jaxdino.data.record import Split
from jaxdino.evals.detection import DetectionEvaluator
from jaxdino.evals.detection_pictures import boxes_over
from jaxdino.evals.object_confusion import NOTHING, OVERLAP, SCORE
from jaxdino.evaluation.drawing import drawn, lines
from jaxdino.evaluation.finished_run import FinishedRun
from jaxdino.evaluation.intervals import Statistic
from jaxdino.evaluation.section import Block, Matrix, Plots
from jaxdino.evaluation.tasks.average_precision import AveragePrecision

CURVES = 10  # classes whose curves are drawn


def confusion_of(names: Sequence[str], table: np.ndarray) -> Matrix:
    """Return the confusion of objects, (classes + 1, classes + 1) as `object_confusion.confusion`."""
    about = f"objects of scores from {SCORE}, an overlap of {OVERLAP}; true classes in rows, predicted in columns"
    return Matrix((*names, NOTHING), table.tolist(), "Confusion", about)


class DetectionKind:
    """Boxes; see `Kind`."""

    field: ClassVar[str] = "boxes"
    titles: ClassVar[Mapping[str, str]] = {
        "map": "mean average precision (overlap 0.50 to 0.95)",
        "map50": "at an overlap of 0.50",
        "map75": "at an overlap of 0.75",
    }
    columns: ClassVar[Mapping[str, str]] = {"ap": "AP, 0.50 to 0.95", "ap50": "AP, 0.50"}
    ranked: ClassVar[str] = f"the F1 of their objects, of scores from {SCORE} and an overlap of {OVERLAP}"
    forms: ClassVar[Mapping[str, str]] = {}
    most_resamples: ClassVar[int | None] = 200
    flips: ClassVar[bool] = False

    def __init__(self, run: FinishedRun):
        self.run, self.names = run, run.names
        self.evaluator = DetectionEvaluator(self.names)
        self.confusion = np.zeros((len(self.names) + 1,) * 2, int)
        self._there: list[np.ndarray] = []

    def each(self, split: Split, rows: Sequence[int], batch_size: int, flip: bool) -> Iterator[Any]:
        """See `Kind`."""
        model = cast(Detector, self.run.model)
        reading = self.run.data.reading(len(model.card.spec.preprocess.mean))
        found = model.each([split.records[row] for row in rows], reading, 0.0, batch_size, {})
        for row, objects in zip(rows, found, strict=True):
            truth = np.asarray(split.fields[self.field][row], np.float64).reshape(-1, 6)
            yield (row, objects, None) if isinstance(objects, BadImage) else (row, truth, objects)

    def add(self, truth: np.ndarray, found: Any) -> float:
        """See `Kind`."""
        given = {"boxes": [found.boxes], "scores": [found.scores], "labels": [found.labels], "truth": [truth]}
        self.evaluator.update(given)
        self._there.append(np.bincount(truth[truth[:, 5] == 0, 4].astype(int), minlength=len(self.names)) > 0)
        return self._f1(given)

    def _f1(self, given: dict[str, Any]) -> float:
        """Count who is taken for whom in an image; return the F1 of its objects."""
        alone = DetectionEvaluator(self.names)
        alone.update(given)
        table = alone.confusion()
        self.confusion += table
        right = float(np.trace(table[:-1, :-1]))
        total = table[:-1].sum() + table[:, :-1].sum()
        return 2 * right / float(total) if total else float("nan")

    def statistic(self) -> Statistic:
        """See `Kind`."""
        return AveragePrecision(self.evaluator, len(self._there), len(self.names))

    def images_of_classes(self) -> np.ndarray:
        """See `Kind`."""
        return np.sum(self._there, axis=0)

    def blocks(self) -> list[Block]:
        """Return curves and the confusion."""
        found = self.evaluator.curves()
        least = sorted(found, key=lambda name: float(found[name].mean()))[:CURVES]
        across = np.linspace(0, 1, len(next(iter(found.values())))).tolist() if found else []
        curves = [(name, across, found[name].tolist()) for name in least]
        picture = drawn(lines(curves, "recall", "precision"), f"Precision and recall (overlap {OVERLAP})")
        note = f"the {CURVES} classes with the lowest area of {len(found)}" if len(found) > CURVES else ""
        plots: list[Block] = [Plots([("Precision-recall curves", picture)], "Curves", note)] if curves else []
        return [*plots, confusion_of(self.names, self.confusion)]

    def pictures(self, image: np.ndarray, truth: Any, found: Any) -> tuple[Image.Image, Image.Image]:
        """See `Kind`."""
        sure = found.scores >= SCORE
        own = boxes_over(image, truth[:, :4], truth[:, 4].astype(int), self.names)
        return own, boxes_over(image, found.boxes[sure], found.labels[sure], self.names, found.scores[sure])
