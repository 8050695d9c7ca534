"""Methods whose heads are linear: SGD, logistic regression, ridge regression and the nearest class mean."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxdino.core.bars import bar
from jaxdino.evals.linear_heads import Cells, Heads, default_steps, logits_of, train_heads
from jaxdino.evals.probe import LEARNING_RATES, WEIGHT_DECAYS
from jaxdino.probing import closed_form, logistic
from jaxdino.probing.method import Cell, Job, Trained, by_fold

C_VALUES = tuple(10.0**power for power in np.linspace(-6, 5, 45).tolist())
"""Source: facebookresearch/dinov2 and dinov3 eval/log_regression.py, C_POWER_RANGE."""
ALPHAS = tuple(10.0**power for power in np.linspace(-2, 6, 17).tolist())


class _Linear:
    """The logits of linear heads."""

    seeded: ClassVar[bool] = False
    linear: ClassVar[bool] = True
    why_not_several: ClassVar[str] = ""

    def logits(self, heads: Heads, x: np.ndarray) -> Any:
        """Return the logits of rows (B, C, H)."""
        return logits_of(heads, x)

    def one(self, heads: Heads, index: int) -> Heads:
        """Return one head of a group, on the host."""
        return Heads(*(np.asarray(array[..., index : index + 1]) for array in heads))


@dataclasses.dataclass(frozen=True)
class Sgd(_Linear):
    """Heads trained by SGD over learning rates, weight decays and label smoothing; see `linear_heads`."""

    learning_rates: Sequence[float] = LEARNING_RATES
    weight_decays: Sequence[float] = WEIGHT_DECAYS
    smoothing: Sequence[float] = (0.0,)
    name: ClassVar[str] = "linear"
    seeded: ClassVar[bool] = True

    @property
    def settings(self) -> list[dict[str, float]]:
        """What is swept."""
        names = ("learning_rate", "weight_decay", "smoothing")
        grid = itertools.product(self.learning_rates, self.weight_decays, self.smoothing)
        return [dict(zip(names, values, strict=True)) for values in grid]

    def train(self, job: Job, cells: Sequence[Cell]) -> Iterator[Trained]:
        """Yield groups of the cells with their heads; a group is one program."""
        chosen = [self.settings[cell.setting] for cell in cells]
        rates, decays, smoothing = (
            [one[name] for one in chosen] for name in ("learning_rate", "weight_decay", "smoothing")
        )
        every = Cells.of(rates, decays, smoothing, [cell.seed for cell in cells], [cell.fold for cell in cells])
        steps, first = job.steps or default_steps(len(job.x), job.batch_size), 0
        how: dict[str, Any] = dict(num_classes=job.num_classes, steps=steps, batch_size=job.batch_size)
        folds = job.fold_of if any(cell.fold >= 0 for cell in cells) else None
        for group in every.groups(job.num_classes):
            heads = train_heads(job.x, job.y, group, **how, seed=job.seed, fold_of=folds, poll=job.poll)
            yield Trained(cells[first : first + len(group)], heads)
            first += len(group)


@dataclasses.dataclass(frozen=True)
class Logistic(_Linear):
    """Multinomial logistic regression by L-BFGS over C; of several classes, one regression for each class."""

    c_values: Sequence[float] = C_VALUES
    max_iterations: int = 1000
    name: ClassVar[str] = "logistic"

    @property
    def settings(self) -> list[dict[str, float]]:
        """What is swept."""
        return [{"C": value} for value in self.c_values]

    def train(self, job: Job, cells: Sequence[Cell]) -> Iterator[Trained]:
        """Yield groups of the cells with their heads."""
        size = logistic.most_together(len(job.x), job.num_classes)
        groups = [
            members[first : first + size]
            for members in by_fold(cells).values()
            for first in range(0, len(members), size)
        ]
        x, y = jnp.asarray(job.x), jnp.asarray(job.y)
        for group in bar(groups, f"{len(cells)} logistic regressions", unit=f"x{size}"):
            job.poll()
            values = [self.c_values[cell.setting] for cell in group]
            how: dict[str, Any] = dict(max_iterations=self.max_iterations, used=job.used(group[0].fold))
            yield Trained(group, *logistic.fit(x, y, values, job.num_classes, **how))


@dataclasses.dataclass(frozen=True)
class Ridge(_Linear):
    """Least squares to -1 and 1 with an L2 penalty, in closed form, over the penalty alpha."""

    alphas: Sequence[float] = ALPHAS
    name: ClassVar[str] = "ridge"

    @property
    def settings(self) -> list[dict[str, float]]:
        """What is swept."""
        return [{"alpha": value} for value in self.alphas]

    def train(self, job: Job, cells: Sequence[Cell]) -> Iterator[Trained]:
        """Yield groups of the cells with their heads."""
        for fold, members in by_fold(cells).items():
            job.poll()
            rows = job.rows(fold)
            values = [self.alphas[cell.setting] for cell in members]
            yield Trained(members, closed_form.ridge(job.x[rows], job.y[rows], values, job.num_classes))


@dataclasses.dataclass(frozen=True)
class NearestMean(_Linear):
    """The class whose mean feature is nearest; there is nothing to sweep."""

    name: ClassVar[str] = "nearest_mean"
    settings: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    why_not_several: ClassVar[str] = "an image of several classes has no nearest class"

    def train(self, job: Job, cells: Sequence[Cell]) -> Iterator[Trained]:
        """Yield groups of the cells with their heads."""
        for fold, members in by_fold(cells).items():
            rows = job.rows(fold)
            yield Trained(members, closed_form.nearest_mean(job.x[rows], job.y[rows], job.num_classes))
