"""The interface between the training loop and a task: data, model, train step and metrics of an objective."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np
import optax

from convert.store import Card
from jaxdino.core.image_sizes import Size, Sizes
from jaxdino.core.params import Flat, Skeleton
from jaxdino.data.pipeline import TrainIter
from jaxdino.data.record import Source, Split
from jaxdino.evals.augmentation_pictures import Tile
from jaxdino.models.spec import ModelSpec
from jaxdino.stage import Stage
from jaxdino.strategy import Plan

if TYPE_CHECKING:
    from jaxdino.train.session import Session

Metrics = dict[str, float]
State = dict[str, Any]


class Worst(NamedTuple):
    """A mistake to show: an image, its class, the predicted one with its probability."""

    image: str
    label: str
    predicted: str
    probability: float
    record: Any


@dataclasses.dataclass(frozen=True)
class Part:
    """One resolved stage.

    Attributes:
      total_steps: limit in steps. seed: the stage's own seed. averaged: paths of the leaves in the weight average.
      sizes: the image sizes. image_size: (height, width) of evaluation and of the saved model; see `at`.
    """

    index: int
    stage: Stage
    plan: Plan
    skeleton: Skeleton
    tx: optax.GradientTransformation
    steps_per_epoch: int
    total_steps: int
    sizes: Sizes
    image_size: tuple[int, int]
    seed: int
    averaged: tuple[str, ...] = ()

    def at(self, place: int) -> "Part":
        """Return the stage with the image size of an entry of its schedule; the stage itself has the last one."""
        return dataclasses.replace(self, image_size=self.sizes.schedule[place][1])

    def steps_at(self, place: int, done: int = 0) -> int:
        """Return the number of steps at an entry of the schedule of sizes, without the first `done` of the stage."""
        begins = [min(begin * self.steps_per_epoch, self.total_steps) for begin, _ in self.sizes.schedule]
        return max(0, [*begins, self.total_steps][place + 1] - max(begins[place], done))

    def steps_of(self, size: Size) -> float:
        """Return the expected number of steps at a key of `Sizes.timed`."""
        base, places = self.sizes.timed()[size], range(len(self.sizes.schedule))
        bases = [self.sizes.bases(place) for place in places]
        return sum(self.steps_at(place) / len(bases[place]) for place in places if base in bases[place])

    def alone(self, size: Size) -> "Part":
        """Return the stage with all of its batches, and its evaluation, at one size."""
        return dataclasses.replace(self, sizes=Sizes.one(size), image_size=size)

    @property
    def max_epochs(self) -> int:
        """Limit in epochs; the last one may be incomplete."""
        return -(-self.total_steps // self.steps_per_epoch)


class Task(Protocol):
    """Interface of the tasks in `jaxdino.train.tasks`; may raise UserError when it is created.

    Created from a config, a mesh, a function that prints a line, and a `data.Check` of each source it loads.

    Attributes:
      source: the data. card: card of the model, with the run's preprocessing.
      spec: the model as strategies use it.
      flat: the initial leaves of the run, on the mesh; {} once the first stage has begun.
      arrays: names of the batch entries that are sent to the devices.
      monitors: the metrics that a stage may monitor, () if none is measured. The first is the default, and is shown in
        an epoch's line if none is monitored. columns: those in the table at a run's end.
      hands_on: the weights that the next stage starts from, "best" or "latest". If both stages validate in the same way
        and at the same size, these weights are the next stage's best until an epoch is better.
      worst: at a run's end, the mistakes that its page shows.
      shown_times: how often the picture of augmentations shows each image. mask_names: classes of the masks in it.
    """

    source: Source
    card: Card
    spec: ModelSpec
    flat: Mapping[str, jax.Array]
    arrays: ClassVar[tuple[str, ...]]
    monitors: tuple[str, ...]
    columns: ClassVar[tuple[str, ...]]
    hands_on: ClassVar[str]
    worst: Sequence[Worst]
    shown_times: ClassVar[int]
    mask_names: Sequence[str]

    def skeleton(self, stage: Stage) -> Skeleton:
        """Return the stage's model. Raises UserError if this data or model does not support the stage."""

    def sizes(self, stage: Stage) -> Sizes:
        """Return the sizes of the images in a stage. Raises UserError if the model does not support them."""

    def tokens(self, stage: Stage, sizes: Sizes) -> int:
        """Return the tokens that a step computes for an image, if its batch may be divided into slices; else 0."""

    def averaged(self, plans: list[Plan], stage: Stage) -> tuple[str, ...]:
        """Return the paths of the leaves that the last plan's stage averages, given all plans up to it."""

    def train_step(self, part: Part, current: State) -> Callable:
        """Return the stage's train step, not compiled; `current` is the state that it starts from."""

    def train_batches(self, part: Part, split: Split | None = None) -> TrainIter:
        """Return the stage's endless training batches; those of another split whole, in this process alone."""

    def augment(self, part: Part, key: jax.Array, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Augment a batch on the device, as the stage's train step does."""

    def augment_words(self, stage: Stage) -> str:
        """Return the setting that augments the images of a stage."""

    def tiles(self, augmented: Mapping[str, Any], place: int) -> list[Tile]:
        """Return what is drawn of one entry of an augmented batch."""

    def more(self, flat: Flat) -> State:
        """Return the task's own entries of the moving state at the run's start, given all leaves of the model."""

    def carried(self, before: Part, ended: State) -> tuple[Flat, Flat, State]:
        """Return (all leaves, average, entries of `more`) for the next stage, from the final state of a stage."""

    def put_on(self, part: Part, flat: Flat, before: Part | None) -> Flat:
        """Return all leaves of a stage's model: those of the previous stage, with the parameters that are new."""

    def baseline(self, session: "Session") -> Metrics:
        """Compute the metrics before the first step of a run."""

    def references(self, session: "Session") -> dict[str, Metrics]:
        """Return {name: metrics} to compare the stages with in the final table; "start" is the initial weights."""

    def given(self, session: "Session", part: Part, measured: Callable[[], Metrics]) -> Metrics:
        """Return the validation metrics of a stage's initial weights, if not known yet: `measured()` or a known value.

        Returns {} if they mean nothing, as for a head that was never trained.
        """

    def measure(self, session: "Session", part: Part) -> Callable[[State], Metrics]:
        """Return a function from a stage's state to its validation metrics."""

    def reading(self, measured: Mapping[str, jax.Array]) -> Metrics:
        """Convert a step's measures to the numbers of a line in metrics.jsonl."""

    def judge(self, session: "Session", reading: Metrics) -> None:
        """Check each reading and validation; raise UserError to end a run that has collapsed."""

    def save_best(self, folder: Path, part: Part, flat: Mapping[str, np.ndarray], metrics: Metrics) -> None:
        """Write the best model of a stage, given all its leaves and their validation metrics, {} if not measured."""

    def end(self, session: "Session", part: Part, current: State) -> None:
        """Write the task's additional files at a stage's end."""

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Return (entries for the summary, lines to print below the table) at a run's end."""

    def pictures(self, session: "Session") -> None:
        """Draw the plots of the run so far into its folder."""
