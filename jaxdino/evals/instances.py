"""Metrics of objects with masks: COCO's mask average precision, panoptic quality, and IoU of classes."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from jaxdino.data.instances import IGNORED, Instances
from jaxdino.evals.detection import DetectionEvaluator
from jaxdino.evals.segmentation import IGNORED as VOID
from jaxdino.evals.semantic import SemanticEvaluator

MATCHED = 0.5  # a found object is a true one if they overlap more: then at most one true object does


class Found(NamedTuple):
    """What a model finds in an image.

    Attributes:
      masks: bool (n, H, W), the objects, which may overlap. scores: (n,). labels: (n,).
      ids: int32 (H, W), the map of all regions without overlaps: 1 to m, 0 where there is none.
      classes: int32 (m,), the class of each region. region_scores: float64 (m,), their scores; None if not known.
    """

    masks: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    classes: np.ndarray
    region_scores: np.ndarray | None = None


class MaskEvaluator(DetectionEvaluator):
    """COCO's average precision of masks. Source: cocodataset/cocoapi PythonAPI/pycocotools/cocoeval.py."""

    kind: ClassVar[Literal["bbox", "segm"]] = "segm"

    def update(self, found: Mapping[str, Any]) -> None:
        """Add the objects of some images.

        Args:
          found: "found", a list of `Found`; "truth", a list of `Instances`; "things", for each class whether it counts.
        """
        things = np.asarray(found["things"], bool)
        for one, truth in zip(found["found"], found["truth"], strict=True):
            self._images += 1
            rows = np.flatnonzero(things[truth.labels])
            masks = truth.ids[None] == (rows + 1)[:, None, None]
            for code, row in zip(_codes(masks), rows.tolist(), strict=True):
                crowd = int(truth.crowd[row])
                entry = self._of(code, int(truth.labels[row])) | {"iscrowd": crowd, "id": len(self._truth) + 1}
                self._truth.append(entry)
            rows = np.flatnonzero(things[one.labels] & (np.asarray(one.scores) > 0))
            for code, row in zip(_codes(one.masks[rows]), rows.tolist(), strict=True):
                entry = self._of(code, int(one.labels[row]))
                self._found.append(entry | {"score": float(one.scores[row]), "id": len(self._found) + 1})

    def _of(self, code: Any, label: int) -> dict[str, Any]:
        from pycocotools import mask as runs

        shared = {"image_id": self._images, "category_id": label, "iscrowd": 0}
        return {**shared, "segmentation": code, "bbox": runs.toBbox(code).tolist(), "area": float(runs.area(code))}


def _codes(masks: np.ndarray) -> list[Any]:
    """Return the run lengths of masks (n, H, W)."""
    from pycocotools import mask as runs

    codes: Any = runs.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8)) if len(masks) else []
    return codes


class PanopticCounts:
    """Panoptic quality: how many regions are found, and how well.

    A region found is a true one of its class if they overlap by more than 0.5, intersection over union; ignored pixels
    count in neither. A region with more than half of its pixels ignored, or in a crowd of its class, is not counted.

    Source: Kirillov et al. 2019, Panoptic Segmentation (arXiv:1801.00868), sections 4.1 and 4.2.

    Attributes:
      table: float64 (classes, 4): sum of the overlaps of matched regions, their number, false ones, missed ones.
    """

    def __init__(self, classes: int):
        self.table = np.zeros((classes, 4))

    def add(self, ids: np.ndarray, classes: np.ndarray, truth: Instances) -> None:
        """Count the regions of an image, see `Found` for the first two."""
        count, true = len(classes), len(truth.labels)
        own = np.where(truth.ids == IGNORED, true + 1, truth.ids)
        both = np.bincount((ids.astype(np.int64) * (true + 2) + own).ravel(), minlength=(count + 1) * (true + 2))
        both = both.reshape(count + 1, true + 2)
        area, area_true, void = both.sum(axis=1), both.sum(axis=0), both[:, true + 1]
        kept = ~truth.crowd
        matched, hit = np.zeros(count, bool), np.zeros(true, bool)
        for found, place in zip(*np.nonzero(both[1:, 1 : true + 1]), strict=True):
            if classes[found] != truth.labels[place] or truth.crowd[place]:
                continue
            shared = both[found + 1, place + 1]
            union = area[found + 1] + area_true[place + 1] - shared - void[found + 1]
            if (overlap := shared / union) > MATCHED:
                self.table[classes[found], :2] += overlap, 1
                matched[found] = hit[place] = True
        np.add.at(self.table[:, 3], truth.labels[kept & ~hit], 1)
        for found in np.flatnonzero(~matched & (area[1:] > 0)):
            crowds = np.flatnonzero(truth.crowd & (truth.labels == classes[found])) + 1
            passed = void[found + 1] + both[found + 1, crowds].sum()
            self.table[classes[found], 2] += passed <= MATCHED * area[found + 1]

    def compute(self) -> dict[str, np.ndarray]:
        """Return {"pq", "sq", "rq"}, each (classes,), nan for a class without any region."""
        overlap, hits, false, missed = self.table.T
        whole = hits + (false + missed) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            pq, rq = np.where(whole > 0, overlap / whole, np.nan), np.where(whole > 0, hits / whole, np.nan)
            sq = np.where(hits > 0, overlap / hits, np.where(whole > 0, 0.0, np.nan))
        return {"pq": pq, "sq": sq, "rq": rq}


class InstanceEvaluator:
    """Collect the objects of a split and compute all metrics. See `jaxdino.evals.evaluator.Evaluator`.

      mask_map, mask_map50, mask_map75: COCO's average precision of the masks of things, see `DetectionEvaluator`.
      pq, sq, rq: panoptic, segmentation and recognition quality, means over the classes, see `PanopticCounts`.
      miou: mean IoU of the classes in the map of regions. iou/<class>, pq/<class>, mask_ap/<class>: of one class.

    Attributes:
      names: the metrics, as in `compute`.
    """

    def __init__(self, class_names: Sequence[str], things: Sequence[bool]):
        self.class_names, self.things = tuple(class_names), tuple(things)
        of_class = ("mask_ap", "pq", "iou")
        self.names = ("mask_map", "mask_map50", "mask_map75", "pq", "sq", "rq", "miou")
        self.names += tuple(f"{name}/{one}" for name in of_class for one in self.class_names)
        self.masks, self.panoptic = MaskEvaluator(class_names), PanopticCounts(len(self.class_names))
        self.pixels = SemanticEvaluator((*self.class_names, ""))  # the last class: no region
        self.images = 0

    def update(self, found: Mapping[str, Any]) -> None:
        """Add some images: "found", a list of `Found`, and "truth", a list of `Instances`."""
        self.masks.update({**found, "things": self.things})
        for one, truth in zip(found["found"], found["truth"], strict=True):
            self.images += 1
            self.panoptic.add(one.ids, one.classes, truth)
            none = len(self.class_names)
            own = np.append(np.where(truth.crowd, VOID, truth.labels), [VOID, none])  # of 1 ... n, ignored, nothing
            place = np.where(truth.ids > 0, truth.ids - 1, np.where(truth.ids == IGNORED, -2, -1))
            regions = np.append(one.classes, none)[one.ids - 1]
            self.pixels.update({"prediction": [regions], "mask": [own[place]]})

    def compute(self) -> dict[str, float]:
        """Return {metric: value}; nan if the split has no object."""
        masks, pixels = self.masks.compute(), self.pixels.compute()
        found = {f"mask_{name}": value for name, value in masks.items()}
        quality = self.panoptic.compute()
        for name, values in quality.items():
            known = values[~np.isnan(values)]
            found[name] = float(known.mean()) if len(known) else float("nan")
        found |= {f"pq/{n}": float(v) for n, v in zip(self.class_names, quality["pq"], strict=True) if v == v}
        iou = {f"iou/{one}": pixels[f"iou/{one}"] for one in self.class_names if f"iou/{one}" in pixels}
        return found | iou | {"miou": float(np.mean([*iou.values()])) if iou else float("nan")}
