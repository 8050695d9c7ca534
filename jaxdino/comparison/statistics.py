"""Mean, spread and noise of strategies over seeds; the gap between two strategies, and whether it means anything."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxdino.comparison.measured import Measured
from jaxdino.core.metric_names import falls
from jaxdino.probing.intervals import spread

ERRORS = 2.0
"""A gap within so many standard errors is noise: about 95 % of gaps that are only chance."""


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A strategy and its finished runs, in the order of their seeds."""

    name: str
    runs: Sequence[Measured]

    def values(self, split: str, metric: str) -> dict[int, float]:
        """Return {seed: value} of a metric; `split` is "val", or "measured" for the split at the end."""
        found = {one.run.seed: one.found[split].get(metric) for one in self.runs}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def mean(self, name: str) -> float | None:
        """Return the mean over the runs of an entry of `Measured.found`; None if a run does not have it."""
        values = [one.found[name] for one in self.runs]
        return None if any(value is None for value in values) else float(np.mean(values))

    def drop(self, name: str) -> float | None:
        """Return the mean loss of "knn" or "linear" accuracy on the held-back set."""
        values = [found for one in self.runs if (found := one.drop(name)) is not None]
        return float(np.mean(values)) if values else None


@dataclasses.dataclass(frozen=True)
class Gap:
    """How much a strategy is worse than the best one, in a metric, and the noise of that number.

    Attributes:
      seeds: how many seeds both have.
    """

    value: float
    noise: float
    seeds: int

    @property
    def means_nothing(self) -> bool:
        """Whether the gap is within its noise."""
        return self.value <= self.noise


def gap(best: Strategy, other: Strategy, metric: str) -> Gap:
    """Return the gap in a validation metric, and its noise: `ERRORS` standard errors.

    The variance has two parts. Seeds: that of the differences between runs with one seed, divided by their number;
    0 is assumed for a single one. Images: that of two shares p measured on n validation images, (p(1-p) + q(1-q)) / n,
    since other images would give other numbers. Metrics that are not shares of images are treated as if they were.
    Without a seed that both have, since runs failed, the gap is that of the means.
    """
    one, two = best.values("val", metric), other.values("val", metric)
    both = sorted(one.keys() & two.keys())
    p, q = (float(np.mean([each[seed] for seed in both or each])) for each in (one, two))
    differences = np.array([one[seed] - two[seed] for seed in both] or [p - q])
    images = min(run.found["val_images"] for run in (*best.runs, *other.runs))
    shares = (p * (1 - p) + q * (1 - q)) / images if 0 <= p <= 1 and 0 <= q <= 1 else 0.0
    seeds = float(differences.var(ddof=1)) / len(both) if len(both) > 1 else 0.0
    worse = -1 if falls(metric) else 1
    return Gap(worse * float(differences.mean()), ERRORS * math.sqrt(seeds + max(shares, 0.0)), len(both))


def words(values: Sequence[float], form: str = ".3f") -> str:
    """Return mean and standard deviation of runs, as a cell of a table: "0.978 (SD 0.004)", or "0.978"."""
    if not values:
        return "-"
    found = spread(values, "seeds")
    return f"{found['mean']:{form}}" + (f" (SD {found['std']:{form}})" if found["std"] is not None else "")
