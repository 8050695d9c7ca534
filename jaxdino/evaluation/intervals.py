"""Intervals: Wilson's for shares of independent images, and the bootstrap for everything else.

The bootstrap draws images with replacement, as counts for all resamples at once; with clusters (patients), it draws
clusters, with all of their images.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from jaxdino.core.bars import bar
from jaxdino.core.intervals import wilson
from jaxdino.evaluation.figure import Figure, figure

BLOCK = 4_000_000
"""Most counts (resamples x images) that are held at once."""
Statistic = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""Function of the counts (R, N), float64, that returns {name: (R,) or (R, C)}; nan where a value is not defined."""


@dataclasses.dataclass(frozen=True)
class Resampling:
    """How intervals are computed.

    Attributes:
      count: number of resamples. level: coverage, such as 0.95.
      clusters: int (N,), the cluster of each image, from 0; None if images are independent. by: their column.
    """

    count: int = 1000
    level: float = 0.95
    seed: int = 0
    clusters: np.ndarray | None = None
    by: str = ""

    def counts(self, n: int) -> Iterator[np.ndarray]:
        """Yield how often each of `n` images is drawn, float64 (R, N), in blocks of resamples."""
        rng = np.random.default_rng(self.seed)
        units = n if self.clusters is None else int(self.clusters.max()) + 1
        size = max(1, min(self.count, BLOCK // max(n, units)))
        for first in range(0, self.count, size):
            rows = min(size, self.count - first)
            drawn = rng.integers(0, units, (rows, units)) + units * np.arange(rows).reshape(-1, 1)
            found = np.bincount(drawn.reshape(-1), minlength=rows * units).reshape(rows, units).astype(np.float64)
            yield found if self.clusters is None else found[:, self.clusters]

    def of_rows(self, rows: np.ndarray) -> "Resampling":
        """Return the same for some of the images."""
        if self.clusters is None:
            return self
        return dataclasses.replace(self, clusters=np.unique(self.clusters[rows], return_inverse=True)[1])

    @property
    def method(self) -> str:
        """What reports say about bootstrap intervals."""
        by = f", whole groups of {self.by!r}" if self.clusters is not None else ""
        return f"{self.level:.0%} percentile bootstrap, {self.count} resamples{by}"


def bootstrap(statistic: Statistic, n: int, how: Resampling) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return {name: (low, high)}: percentiles of the statistic over resamples, () or (C,) each.

    nan where a value is not defined in more than a tenth of the resamples, or where all resamples agree: the interval
    would say that there is no doubt, where there are too few images to see any.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    parts = []
    with bar(None, "resampling", total=how.count, unit="resample") as watched:
        for counts in how.counts(n):
            parts.append(statistic(counts))
            watched.update(len(counts))
    tail, found = 50 * (1 - how.level), {}
    for name in parts[0]:
        values = np.concatenate([np.asarray(part[name], np.float64) for part in parts])
        with np.errstate(invalid="ignore"):
            missing = np.isnan(values).mean(axis=0) > 0.1
        filled = np.where(missing, 0.0, values)  # nanpercentile warns of columns without any value
        low, high = np.nanpercentile(filled, (tail, 100 - tail), axis=0)
        none = missing | (low == high)
        found[name] = np.where(none, np.nan, low), np.where(none, np.nan, high)
    return found


def share(hits: float, n: int, how: Resampling, interval: tuple[float, float] | None = None, why: str = "") -> Figure:
    """Return the figure of a share of independent images, with Wilson's interval.

    Args:
      interval: of the bootstrap, taken if images come in clusters. why: the reason if n is 0.
    """
    if not n:
        return Figure(None, 0, why=why or "no image")
    if how.clusters is None:
        return figure(hits / n, n, wilson(hits, n, how.level), f"{how.level:.0%} Wilson")
    return of_bootstrap(hits / n, n, interval, how)


def of_bootstrap(
    value: float | None, n: int, interval: tuple[float, float] | None, how: Resampling, why: str = "not defined"
) -> Figure:
    """Return the figure of a value with its bootstrap interval; says so if there is none."""
    if interval is None or np.isnan(interval[0]):
        return figure(value, n, None, "no interval: all resamples agree, or too few have a value", why)
    return figure(value, n, interval, how.method, why)
