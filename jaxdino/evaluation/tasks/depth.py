"""Runs that give every pixel its distance: errors as means over the images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
from PIL import Image

from jaxdino.api.depth import DepthModel
from jaxdino.data.record import Split
from jaxdino.evals.depth import NAMES, DepthEvaluator
from jaxdino.evals.depth_pictures import coloured, limits
from jaxdino.evaluation.finished_run import FinishedRun
from jaxdino.evaluation.intervals import Statistic
from jaxdino.evaluation.section import Block
from jaxdino.evaluation.tasks.semantic import windows_of
from jaxdino.models.heads.depth import DepthHeadConfig


class DepthKind:
    """Depth maps; see `Kind`. A metric is the mean over the images with a known depth, as in `evals.depth`."""

    field: ClassVar[str] = "depth"
    titles: ClassVar[Mapping[str, str]] = {
        "abs_rel": "relative error",
        "rmse": "root mean squared error, metres",
        "delta1": "pixels within a factor of 1.25",
        "delta2": "within 1.25 squared",
        "delta3": "within 1.25 cubed",
        "log10": "error of logarithms to base 10",
        "silog": "scale-invariant logarithmic error, hundredths",
        "sq_rel": "squared relative error",
        "rmse_log": "root mean squared error of logarithms",
    }
    columns: ClassVar[Mapping[str, str]] = {}
    ranked: ClassVar[str] = "their relative error"
    forms: ClassVar[Mapping[str, str]] = {"silog": ".2f"}
    most_resamples: ClassVar[int | None] = None
    flips: ClassVar[bool] = True

    def __init__(self, run: FinishedRun):
        self.run, self.model = run, cast(DepthModel, run.model)
        head = cast(DepthHeadConfig, self.model.card.head)
        self.evaluator = DepthEvaluator(head.min_depth, head.max_depth)
        self._known: list[bool] = []

    def each(self, split: Split, rows: Sequence[int], batch_size: int, flip: bool) -> Iterator[Any]:
        """See `Kind`."""
        for row, truth, given in windows_of(self.run, self.field, split, rows, batch_size, flip):
            yield row, truth, None if given is None else self.model.metres(given)

    def add(self, truth: np.ndarray, found: np.ndarray) -> float:
        """See `Kind`."""
        before = len(self.evaluator.rows)
        self.evaluator.update({"prediction": [found], "depth": [truth]})
        self._known.append(len(self.evaluator.rows) > before)
        return -self.evaluator.rows[-1]["abs_rel"] if self._known[-1] else float("nan")

    def statistic(self) -> Statistic:
        """See `Kind`."""
        known = np.array(self._known)
        rows = np.array([[row[name] for name in NAMES] for row in self.evaluator.rows]).reshape(-1, len(NAMES))

        def values(counts: np.ndarray) -> dict[str, np.ndarray]:
            drawn = counts[:, known]
            with np.errstate(invalid="ignore", divide="ignore"):
                means = drawn @ rows / drawn.sum(axis=1, keepdims=True)
            return dict(zip(NAMES, means.T, strict=True))

        return values

    def images_of_classes(self) -> np.ndarray:
        """Return nothing: there are no classes."""
        return np.zeros(0, int)

    def blocks(self) -> list[Block]:
        """Return nothing more."""
        return []

    def pictures(self, image: np.ndarray, truth: Any, found: Any) -> tuple[Image.Image, Image.Image]:
        """Return both depths in the colours of one scale."""
        span = limits(truth)
        both = [Image.fromarray((255 * coloured(one, *span)).round().astype(np.uint8)) for one in (truth, found)]
        return both[0], both[1]
