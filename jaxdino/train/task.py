"""What an objective makes of a run: its data, its model, its step, its measure. The loop knows no objective."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import jax
import numpy as np
import optax

from convert.store import Card
from jaxdino.core.params import Flat, Skeleton
from jaxdino.data.pipeline import TrainIter
from jaxdino.data.sources import Source
from jaxdino.stage import Stage
from jaxdino.strategy import Plan

Metrics = dict[str, float]
State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """One stage, resolved.

    Attributes:
      total_steps: its limit. seed: its own. averaged: the paths that its average of the weights holds.
    """

    index: int
    stage: Stage
    plan: Plan
    skeleton: Skeleton
    tx: optax.GradientTransformation
    steps_per_epoch: int
    total_steps: int
    image_size: tuple[int, int]
    seed: int
    averaged: tuple[str, ...] = ()

    @property
    def max_epochs(self) -> int:
        """Its limit in epochs, of which the last may be cut short."""
        return -(-self.total_steps // self.steps_per_epoch)


class Task(Protocol):
    """What a key of `jaxdino.train.tasks.TASKS` stands for. Made of a config and a mesh, which it may refuse.

    Attributes:
      source: the data. card: of the model, with the run's preprocessing.
      spec: the model as strategies see it. flat: the leaves that a run starts from, on the host.
      arrays: the names in a batch that travel to the devices.
      monitors: the metrics that a stage may watch. shown: the one in an epoch's line. columns: those in the table at a
        run's end.
      hands_on: what the next stage starts from, the "best" weights of a stage or its "latest". Where both stages
        measure the same at one size, they count as its best so far, and are handed on unless bettered.
    """

    source: Source
    card: Card
    spec: Any
    flat: Mapping[str, np.ndarray]
    arrays: ClassVar[tuple[str, ...]]
    monitors: tuple[str, ...]
    shown: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    hands_on: ClassVar[str]

    def skeleton(self, stage: Stage) -> Skeleton:
        """The stage's model; UserError for a stage that this data or model cannot have."""

    def image_size(self, stage: Stage) -> tuple[int, int]:
        """Of what the model sees in the stage; UserError for one that it does not take."""

    def averaged(self, plans: list[Plan], stage: Stage) -> tuple[str, ...]:
        """The paths that the last plan's stage keeps an average of, given all plans up to it."""

    def train_step(self, part: Part, current: State) -> Callable:
        """The stage's step, not compiled yet; `current` is the state that it starts or goes on from."""

    def train_batches(self, part: Part) -> TrainIter:
        """The stage's endless training batches."""

    def more(self, flat: Flat) -> State:
        """What the moving state holds beside the usual, at the run's start, of all leaves of the model."""

    def carried(self, before: Part, ended: State) -> tuple[Flat, Flat, State]:
        """(all leaves, average, what `more` holds) that a stage starts from; of the stage before, as it ended."""

    def put_on(self, part: Part, flat: Flat, before: Part | None) -> Flat:
        """All leaves of a stage's model, of those that the stage before left: what is new in it is added."""

    def baseline(self, session: Any) -> Metrics:
        """What is measured before the first step of a run."""

    def references(self, session: Any) -> dict[str, Metrics]:
        """What the stages compare with in the table at a run's end: {name: metrics}; "start" is the first weights."""

    def given(self, session: Any, part: Part, measured: Callable[[], Metrics]) -> Metrics:
        """The validation metrics of what a stage starts from, where they are not known: `measured()`, or better news.

        {} where they say nothing: a head that was never trained.
        """

    def measure(self, session: Any, part: Part) -> Callable[[State], Metrics]:
        """A function from a stage's state to its validation metrics."""

    def reading(self, measured: Mapping[str, jax.Array]) -> Metrics:
        """A step's measures as the numbers of a line in metrics.jsonl."""

    def judge(self, session: Any, reading: Metrics) -> None:
        """Looks at each reading and validation as they come; raises UserError to end a run that is lost."""

    def save_best(self, folder: Path, part: Part, flat: Mapping[str, np.ndarray]) -> None:
        """Writes the best model of a stage, given all its leaves."""

    def end(self, session: Any, part: Part, current: State) -> None:
        """What else is written at a stage's end."""

    def finish(self, session: Any) -> tuple[dict[str, Any], list[str]]:
        """(what the summary gets, the lines that are printed below the table) at a run's end."""

    def pictures(self, session: Any) -> None:
        """Draws the run so far into its folder."""
