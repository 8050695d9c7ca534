"""Mean, spread and noise of strategies over seeds; the gap between two strategies, and whether it means anything."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxdino.comparison.measured import Measured
from jaxdino.core.metric_names import falls
from jaxdino.evaluation.figure import Figure, figure
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
      noise: None: not known, from one seed of a metric that is no share of images. seeds: how many both have.
    """

    value: float
    noise: float | None
    seeds: int

    @property
    def means_nothing(self) -> bool:
        """Whether the gap is within its noise; one whose noise is not known is not, but for none at all."""
        return self.value <= (self.noise or 0.0)

    @property
    def error(self) -> str:
        """The noise as words: "noise 0.031"."""
        return "noise not known" if self.noise is None else f"noise {self.noise:.4f}"


def is_share(metric: str) -> bool:
    """Return whether a metric is the share of images that are right, so that its error follows from their number."""
    return metric == "accuracy" or (metric.startswith("top") and metric.endswith("_accuracy"))


def gap(best: Strategy, other: Strategy, metric: str) -> Gap:
    """Return the gap in a validation metric, and its noise.

    Seeds: the variance of the differences between runs with one seed, divided by their number. Images: of a metric that
    is a share of the n validation images (`is_share`) also (p(1-p) + q(1-q)) / n, since other images would give other
    numbers; the noise is `ERRORS` standard errors, and a single seed counts as no variance. Of other metrics (mean IoU,
    average precision, AUC, errors of depth) the images' part is not known: the noise is that of the seeds alone, the
    half width of a 95 % t interval, and with one seed there is none. Without a seed that both have, since runs failed,
    the gap is that of the means.
    """
    one, two = best.values("val", metric), other.values("val", metric)
    both = sorted(one.keys() & two.keys())
    p, q = (float(np.mean([each[seed] for seed in both or each])) for each in (one, two))
    differences = np.array([one[seed] - two[seed] for seed in both] or [p - q])
    seeds = float(differences.var(ddof=1)) / len(both) if len(both) > 1 else 0.0
    worse = -1 if falls(metric) else 1
    value = worse * float(differences.mean())
    if is_share(metric):
        images = min(run.found["val_images"] for run in (*best.runs, *other.runs))
        shares = (p * (1 - p) + q * (1 - q)) / images
        return Gap(value, ERRORS * math.sqrt(seeds + max(shares, 0.0)), len(both))
    if len(both) < 2:
        return Gap(value, None, len(both))
    from scipy.stats import t  # slow to import

    return Gap(value, float(t.ppf(0.975, len(both) - 1)) * math.sqrt(seeds), len(both))


def over_seeds(values: Sequence[float]) -> Figure:
    """Return the mean over runs with Student's t interval, a guide, since seeds share their images; n counts runs."""
    n = len(values)
    if not n:
        return Figure(None, 0, why="no run has it")
    error = float(np.std(values, ddof=1)) / n**0.5 if n > 1 else 0.0
    if not error:
        return figure(np.mean(values), n, None, "no interval: one run" if n == 1 else "no interval: all runs agree")
    from scipy.stats import t  # slow to import

    mean, half = float(np.mean(values)), float(t.ppf(0.975, n - 1)) * error
    return figure(mean, n, (mean - half, mean + half), "95% t interval over seeds")


def words(values: Sequence[float], form: str = ".3f") -> str:
    """Return mean and standard deviation of runs, as a cell of a table: "0.978 (SD 0.004)", or "0.978"."""
    if not values:
        return "-"
    found = spread(values, "seeds")
    return f"{found['mean']:{form}}" + (
        f" (SD {found['std']:{form.removeprefix('+')}})" if found["std"] is not None else ""
    )
