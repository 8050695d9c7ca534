"""What a method of training heads has in common with the others: its settings, its heads, their logits."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxdino.evals.linear_heads import NO_FOLD


class Cell(NamedTuple):
    """One head: index of its settings, its seed, and the fold that it does not train on, or `NO_FOLD`."""

    setting: int
    seed: int = 0
    fold: int = NO_FOLD


class Trained(NamedTuple):
    """H heads with their cells, trained together.

    Attributes:
      converged: whether each head reached the minimum, bool (H,); None for methods that do not iterate towards one.
    """

    cells: Sequence[Cell]
    heads: Any
    converged: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """What heads are trained on.

    Attributes:
      x, y: as in `sets.Rows`. fold_of: the fold of each row, or None.
      steps: of the methods that take minibatches. seed: of their order. poll: see `train_heads`.
    """

    x: np.ndarray
    y: np.ndarray
    num_classes: int
    fold_of: np.ndarray | None
    steps: int | None
    batch_size: int
    seed: int
    poll: Callable[[], None] = lambda: None

    @property
    def several(self) -> bool:
        """Whether an image may have several classes."""
        return self.y.ndim == 2

    def used(self, fold: int) -> np.ndarray:
        """Return whether each row is not in the fold, bool (N,)."""
        return np.ones(len(self.x), bool) if self.fold_of is None or fold == NO_FOLD else self.fold_of != fold

    def rows(self, fold: int) -> np.ndarray:
        """Return the rows that are not in the fold."""
        return np.flatnonzero(self.used(fold))


class Method(Protocol):
    """A way to train heads.

    Attributes:
      settings: what is swept, a dict for each setting. seeded: whether heads depend on a seed.
      linear: whether the heads are `linear_heads.Heads`, which a model can hold.
      why_not_several: why it does not apply to images of several classes; "" if it does.
    """

    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> Sequence[dict[str, Any]]: ...
    @property
    def seeded(self) -> bool: ...
    @property
    def linear(self) -> bool: ...
    @property
    def why_not_several(self) -> str: ...

    def train(self, job: Job, cells: Sequence[Cell]) -> Iterator[Trained]:
        """Yield groups of the cells with their heads."""
        ...

    def logits(self, heads: Any, x: np.ndarray) -> Any:
        """Return the logits of rows (B, C, H)."""
        ...

    def one(self, heads: Any, index: int) -> Any:
        """Return one head of a group, as host arrays with an axis of one head."""
        ...


def by_fold(cells: Sequence[Cell]) -> dict[int, list[Cell]]:
    """Group cells by their fold."""
    found: dict[int, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.fold, []).append(cell)
    return found
