"""Runs that find objects and regions with masks: COCO's mask average precision, panoptic quality, IoU of classes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
from PIL import Image

from jaxdino.api.instances import InstanceModel
from jaxdino.data.bad_images import BadImage
from jaxdino.data.instances import Instances, read
from jaxdino.data.record import Split
from jaxdino.evals.instance_pictures import regions_over
from jaxdino.evals.instances import Found, MaskEvaluator, PanopticCounts
from jaxdino.evaluation.finished_run import FinishedRun
from jaxdino.evaluation.intervals import Statistic
from jaxdino.evaluation.section import Block
from jaxdino.evaluation.tasks.average_precision import AveragePrecision
from jaxdino.evaluation.tasks.detection import confusion_of
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig


class InstancesKind:
    """Objects with masks; see `Kind`."""

    field: ClassVar[str] = "instances"
    titles: ClassVar[Mapping[str, str]] = {
        "map": "mean average precision of masks (overlap 0.50 to 0.95)",
        "map50": "at an overlap of 0.50",
        "map75": "at an overlap of 0.75",
        "pq": "panoptic quality",
        "sq": "segmentation quality",
        "rq": "recognition quality",
    }
    columns: ClassVar[Mapping[str, str]] = {"ap": "mask AP", "ap50": "mask AP, 0.50", "pq": "PQ"}
    ranked: ClassVar[str] = "their panoptic quality, all classes together"
    forms: ClassVar[Mapping[str, str]] = {}
    most_resamples: ClassVar[int | None] = 200
    flips: ClassVar[bool] = False

    def __init__(self, run: FinishedRun):
        self.run, self.names = run, run.names
        self.things = cast(MaskQueriesHeadConfig, run.model.card.head).things
        self.masks = MaskEvaluator(self.names)
        self._panoptic: list[np.ndarray] = []
        self._there: list[np.ndarray] = []

    def each(self, split: Split, rows: Sequence[int], batch_size: int, flip: bool) -> Iterator[Any]:
        """See `Kind`."""
        model = cast(InstanceModel, self.run.model)
        reading = self.run.data.reading(len(model.card.spec.preprocess.mean))
        found = model.each_found([split.records[row] for row in rows], reading, None, batch_size, {})
        for row, one in zip(rows, found, strict=True):
            try:
                truth = read(split.fields[self.field][row], self.run.data.max_pixels)
            except BadImage as err:
                one, truth = err, None
            yield (row, one, None) if isinstance(one, BadImage) else (row, truth, one)

    def add(self, truth: Instances, found: Found) -> float:
        """See `Kind`."""
        self.masks.update({"found": [found], "truth": [truth], "things": self.things})
        counts = PanopticCounts(len(self.names))
        counts.add(found.ids, found.classes, truth)
        self._panoptic.append(counts.table)
        self._there.append(np.bincount(truth.labels[~truth.crowd], minlength=len(self.names)) > 0)
        overlap, hits, false, missed = counts.table.sum(axis=0)
        return float(overlap / (hits + (false + missed) / 2)) if hits + false + missed else float("nan")

    def statistic(self) -> Statistic:
        """See `Kind`."""
        precision = AveragePrecision(self.masks, len(self._there), len(self.names))
        tables = np.stack(self._panoptic)

        def values(counts: np.ndarray) -> dict[str, np.ndarray]:
            each = [_qualities(table) for table in np.einsum("rn,nck->rck", counts, tables, optimize=True)]
            found = precision(counts)
            for name in ("pq", "sq", "rq"):
                of_classes = np.stack([one[name] for one in each])
                known = ~np.isnan(of_classes)
                total, number = np.where(known, of_classes, 0).sum(axis=1), known.sum(axis=1)
                found[name] = np.divide(total, number, out=np.full(len(counts), np.nan), where=number > 0)
            return found | {"class/pq": np.stack([one["pq"] for one in each])}

        return values

    def images_of_classes(self) -> np.ndarray:
        """See `Kind`."""
        return np.sum(self._there, axis=0)

    def blocks(self) -> list[Block]:
        """Return the confusion of objects."""
        return [confusion_of(self.names, self.masks.confusion())]

    def pictures(self, image: np.ndarray, truth: Instances, found: Found) -> tuple[Image.Image, Image.Image]:
        """See `Kind`."""
        own = regions_over(image, truth.ids, truth.labels, self.names)
        return own, regions_over(image, found.ids, found.classes, self.names)


def _qualities(table: np.ndarray) -> dict[str, np.ndarray]:
    counts = PanopticCounts(len(table))
    counts.table = table
    return counts.compute()
