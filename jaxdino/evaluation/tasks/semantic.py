"""Runs that give every pixel a class: IoU, accuracies, Dice, boundaries."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
from PIL import Image

from jaxdino.api.windowed import Whole, WindowedModel
from jaxdino.data.bad_images import BadImage
from jaxdino.data.record import Split
from jaxdino.evals.boundary import boundary_f1
from jaxdino.evals.segmentation import IGNORED
from jaxdino.evals.segmentation_pictures import class_colours
from jaxdino.evals.semantic import confusion
from jaxdino.evals.sliding import WindowLogits
from jaxdino.evaluation.finished_run import FinishedRun
from jaxdino.evaluation.intervals import Statistic
from jaxdino.evaluation.section import Block, Matrix
from jaxdino.evaluation.tasks.kind import read_truth, tinted

MOST = 40  # classes of a confusion matrix on the page


def windows_of(
    run: FinishedRun, field: str, split: Split, rows: Sequence[int], batch_size: int, flip: bool
) -> Iterator[tuple[int, Any, WindowLogits | None]]:
    """Yield (row, truth, what the windows of the image give), or (row, BadImage, None)."""
    model, values = cast(WindowedModel, run.model), split.fields[field]
    reading = run.data.reading(len(model.card.spec.preprocess.mean))
    unread: list[tuple[int, BadImage]] = []

    def images() -> Iterator[tuple[tuple[int, np.ndarray], np.ndarray, tuple[int, int]]]:
        for row in rows:
            try:
                image, _ = model.opened(split.records[row], reading)
                truth = read_truth(values, row, run.data.max_pixels)
            except BadImage as err:
                unread.append((row, err))
                continue
            yield (row, truth), image, truth.shape

    for (row, truth), logits in model.windows(images(), batch_size, Whole(flip=flip)):
        yield row, truth, logits
    for row, err in unread:
        yield row, err, None


class SemanticKind:
    """Masks of classes; see `Kind`. All pixels of a resample are counted together, as in `evals.semantic`."""

    field: ClassVar[str] = "class_mask"
    titles: ClassVar[Mapping[str, str]] = {
        "miou": "mean IoU",
        "pixel_accuracy": "pixel accuracy",
        "mean_accuracy": "mean accuracy of the classes",
        "dice": "Dice, mean of the classes",
        "boundary_f1": "boundary F1, mean of the images",
    }
    columns: ClassVar[Mapping[str, str]] = {"iou": "IoU", "recall": "recall", "precision": "precision"}
    ranked: ClassVar[str] = "the mean IoU of their own classes"
    forms: ClassVar[Mapping[str, str]] = {}
    most_resamples: ClassVar[int | None] = None
    flips: ClassVar[bool] = True

    def __init__(self, run: FinishedRun):
        self.run, self.classes = run, len(run.names)
        self.matrix = np.zeros((self.classes,) * 2, np.int64)
        self._rows: list[np.ndarray] = []
        self._boundaries: list[float] = []

    def each(self, split: Split, rows: Sequence[int], batch_size: int, flip: bool) -> Iterator[Any]:
        """See `Kind`."""
        for row, truth, logits in windows_of(self.run, self.field, split, rows, batch_size, flip):
            yield row, truth, None if logits is None else logits.labels()

    def add(self, truth: np.ndarray, found: np.ndarray) -> float:
        """See `Kind`."""
        counts = confusion(truth, found, self.classes)
        self.matrix += counts
        hits, true, given = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        self._rows.append(np.stack([hits, true, given]).astype(np.float64))
        self._boundaries.append(boundary_f1(truth, found))
        union = true + given - hits
        return float((hits[union > 0] / union[union > 0]).mean()) if union.any() else float("nan")

    def statistic(self) -> Statistic:
        """See `Kind`."""
        rows, edges = np.stack(self._rows), np.array(self._boundaries)
        known = ~np.isnan(edges)

        def values(counts: np.ndarray) -> dict[str, np.ndarray]:
            sums = np.einsum("rn,nkc->krc", counts, rows, optimize=True)
            hits, true, given = sums
            with np.errstate(invalid="ignore", divide="ignore"):
                iou, dice = hits / (true + given - hits), 2 * hits / (true + given)
                recall, precision = hits / true, hits / given
                boundary = counts[:, known] @ edges[known] / counts[:, known].sum(axis=1)
                pixels = hits.sum(axis=1) / true.sum(axis=1)
            means = {"miou": iou, "mean_accuracy": recall, "dice": dice}
            found = {name: _mean(one) for name, one in means.items()}
            found |= {"pixel_accuracy": pixels, "boundary_f1": boundary}
            return found | {"class/iou": iou, "class/recall": recall, "class/precision": precision}

        return values

    def images_of_classes(self) -> np.ndarray:
        """See `Kind`."""
        return (np.stack(self._rows)[:, 1] > 0).sum(axis=0)

    def blocks(self) -> list[Block]:
        """Return the confusion of pixels."""
        if self.classes > MOST:
            return []
        note = "pixels; true classes in rows, predicted classes in columns"
        return [Matrix(self.run.names, self.matrix.tolist(), "Confusion of pixels", note)]

    def pictures(self, image: np.ndarray, truth: Any, found: Any) -> tuple[Image.Image, Image.Image]:
        """See `Kind`."""
        colours = np.concatenate([class_colours(self.run.names), np.zeros((256 - self.classes, 3))])
        return tinted(image, truth, colours, IGNORED), tinted(image, found, colours, IGNORED)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the classes (R, C) -> (R,) of those that are known."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(axis=1), known.sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
