"""Metrics of detection: COCO's mean average precision, by pycocotools."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from jaxdino.evals.object_confusion import confusion

NAMES = ("map", "map50", "map75")
RECALLS = 101  # of a precision-recall curve
HALF = 0  # index of the overlap 0.5 among COCO's ten thresholds


class DetectionEvaluator:
    """Collect the objects of a split and compute COCO's metrics. See `jaxdino.evals.evaluator.Evaluator`.

      map: mean of the average precision over overlaps from 0.5 to 0.95 and over the classes. map50, map75: at an
        overlap of 0.5 and of 0.75.
      ap/<class>: as map, of one class, without the classes that the split lacks.
    Boxes of crowds count neither for nor against the model.

    Source: cocodataset/cocoapi PythonAPI/pycocotools/cocoeval.py.

    Attributes:
      names: the metrics, as in `compute`. kind: what is compared, as pycocotools names it.
    """

    kind: ClassVar[Literal["bbox", "segm"]] = "bbox"

    def __init__(self, class_names: Sequence[str]):
        self.class_names = tuple(class_names)
        self.names = (*NAMES, *(f"ap/{name}" for name in self.class_names))
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._images = 0
        self._evaluated: tuple[int, Any] | None = None

    def update(self, found: Mapping[str, Any]) -> None:
        """Add the objects of some images.

        Args:
          found: boxes (B, K, 4) in pixels, scores (B, K), 0 for an empty slot, labels (B, K); truth, for each image
            float (n, 6) as `data.boxes.COLUMNS`.
        """
        for boxes, scores, labels, truth in zip(
            *(found[n] for n in ("boxes", "scores", "labels", "truth")), strict=True
        ):
            self._images += 1
            for box in np.asarray(truth, np.float64):
                entry = self._entry(box[:4], int(box[4]))
                self._truth.append({**entry, "iscrowd": int(box[5]), "id": len(self._truth) + 1})
            for place in np.flatnonzero(np.asarray(scores) > 0):
                entry = self._entry(np.asarray(boxes[place], np.float64), int(labels[place]))
                self._found.append({**entry, "score": float(scores[place]), "id": len(self._found) + 1})

    def _entry(self, box: np.ndarray, label: int) -> dict[str, Any]:
        left, top, right, bottom = box.tolist()
        sides = [left, top, right - left, bottom - top]
        return {
            "image_id": self._images,
            "category_id": label,
            "bbox": sides,
            "area": sides[2] * sides[3],
            "iscrowd": 0,
        }

    def evaluated(self) -> Any:
        """Return pycocotools' evaluation of everything added, or None without any detection."""
        if self._evaluated is None or self._evaluated[0] != self._images:
            self._evaluated = self._images, self._evaluate()
        return self._evaluated[1]

    def _evaluate(self) -> Any:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        if not self._found:
            return None
        shared = {
            "images": [{"id": number, "height": 0, "width": 0} for number in range(1, self._images + 1)],
            "categories": [{"id": label, "name": name} for label, name in enumerate(self.class_names)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            both: list[Any] = [COCO(), COCO()]  # its attributes have no types
            truth, found = both
            truth.dataset, found.dataset = (
                {**shared, "annotations": self._truth},
                {**shared, "annotations": self._found},
            )
            truth.createIndex()
            found.createIndex()
            evaluation = COCOeval(truth, found, self.kind)
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation

    def compute(self) -> dict[str, float]:
        """Return {metric: value}; nan if the split has no object."""
        classes = {int(one["category_id"]) for one in self._truth if not one["iscrowd"]}
        table = np.zeros((10, RECALLS, len(self.class_names)))
        if (evaluation := self.evaluated()) is not None:
            table = evaluation.eval["precision"][..., 0, -1]
        rows = sorted(classes)
        mean = lambda part: float(part.mean()) if part.size else float("nan")  # noqa: E731
        means = (table[..., rows], table[0][:, rows], table[5][:, rows])
        found = {name: mean(part) for name, part in zip(NAMES, means, strict=True)}
        return found | {f"ap/{self.class_names[row]}": mean(table[..., row]) for row in rows}

    def confusion(self) -> np.ndarray:
        """Return how often objects of each class (row) are found as each class, see `object_confusion.confusion`."""
        key = "bbox" if self.kind == "bbox" else "segmentation"
        return confusion(self._truth, self._found, len(self.class_names), key)

    def matches(self, label: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, int] | None]:
        """Return, for each image, what pycocotools matched of a class; None without object and detection.

        Returns:
          scores (D,) of its detections, whether each hits an object bool (T, D), whether it is passed over bool (T, D),
          at ten overlaps; and the number of objects that count.
        """
        evaluation = self.evaluated()
        if evaluation is None:
            rows = [one for one in self._truth if one["category_id"] == label and not one["iscrowd"]]
            counts = np.bincount([one["image_id"] - 1 for one in rows], minlength=self._images)
            none = np.zeros((10, 0), bool)
            return [(np.zeros(0), none, none, int(count)) for count in counts]
        size = len(evaluation.params.imgIds)
        first = label * len(evaluation.params.areaRng) * size  # of "all" areas, the first of them
        found = []
        for one in evaluation.evalImgs[first : first + size]:
            if one is None:
                found.append(None)
                continue
            hit, passed = np.asarray(one["dtMatches"]) > 0, np.asarray(one["dtIgnore"]) > 0
            objects = int(np.count_nonzero(np.asarray(one["gtIgnore"]) == 0))
            scores = np.asarray(one["dtScores"], np.float64)
            found.append((scores, hit.reshape(10, -1), passed.reshape(10, -1), objects))
        return found

    def curves(self) -> dict[str, np.ndarray]:
        """Return the precision (101,) at recalls of 0, 0.01, ... 1 of each class in the split, at an overlap of 0.5."""
        classes = sorted({int(one["category_id"]) for one in self._truth if not one["iscrowd"]})
        evaluation = self.evaluated()
        nothing = np.zeros(RECALLS)
        return {
            self.class_names[row]: nothing if evaluation is None else evaluation.eval["precision"][HALF, :, row, 0, -1]
            for row in classes
        }
