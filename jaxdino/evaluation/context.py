"""What every part of an evaluation starts from: the run, its predictions, and how intervals are computed."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from jaxdino.data.record import Split
from jaxdino.evaluation.finished_run import FinishedRun
from jaxdino.evaluation.intervals import Resampling
from jaxdino.evaluation.kept import Kept
from jaxdino.evaluation.predictions import Predictions, predicted, spread
from jaxdino.models.heads.calibration import Calibration
from jaxdino.models.heads.choice import AboveThresholds


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags that parts read.

    Attributes:
      at: operating points as text. ood, also: folders. calibrate: a method to keep, "none", or None. most_train,
        most_robust: most images of train that are passed, and that are corrupted or attacked. most_errors: most
        mistakes and label suspects that are shown. tta: kinds of views whose probabilities are averaged.
    """

    batch_size: int = 64
    seed: int = 0
    at: Sequence[str] = ()
    ood: Sequence[str] = ()
    also: Sequence[str] = ()
    calibrate: str | None = None
    most_train: int = 10_000
    most_robust: int | None = None
    most_errors: int = 24
    tta: Sequence[str] = ()
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class Context:
    """An evaluation.

    Attributes:
      split: the images to measure. groups: {column: its value for each image}, filled in by the command.
      kept: finished batches of long parts, which stay if the process is killed.
    """

    run: FinishedRun
    split: Split
    settings: Settings
    resampling: Resampling
    say: Callable[[str], None]
    kept: Kept
    groups: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @cached_property
    def found(self) -> Predictions:
        """The predictions for the measured images."""
        return self.predict(self.split)

    @cached_property
    def validation(self) -> Predictions:
        """The predictions for the run's validation images, on which whatever is chosen is chosen."""
        own = self.run.source.split("val")
        return self.found if self.split is own else self.predict(own)

    @cached_property
    def train(self) -> Predictions:
        """The predictions for training images, at most `Settings.most_train` of them, spread evenly."""
        return self.predict(spread(self.run.source.split("train"), self.settings.most_train))

    @property
    def optimistic(self) -> bool:
        """Whether the measured images are those that the model was chosen on."""
        return self.split is self.run.source.splits.get("val")

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The probability from which an image has each class; () for one class an image."""
        choice = self.run.model.card.head.choice
        return choice.thresholds if isinstance(choice, AboveThresholds) else ()

    def resampling_of(self, indices: np.ndarray) -> Resampling:
        """Return how intervals of some of the measured images are computed, by their numbers in the split (M,)."""
        if self.resampling.clusters is None:
            return self.resampling
        return self.resampling.of_rows(np.searchsorted(self.found.indices, indices))

    def with_groups(self, groups: dict[str, np.ndarray], resampling: Resampling) -> "Context":
        """Return the same with groups and another resampling; what was computed is kept."""
        made = dataclasses.replace(self, groups=groups, resampling=resampling)
        made.__dict__["found"] = self.found
        return made

    def calibrated(self, made: Calibration | None) -> "Context":
        """Return the same with another calibration of the model; what was computed is kept."""
        model = self.run.model
        card = model.card.calibrated(made)
        run = dataclasses.replace(self.run, model=type(model)(card, model.skeleton, model.flat, model.companions))
        context = dataclasses.replace(self, run=run)
        for name in ("found", "validation"):
            if name in self.__dict__:
                context.__dict__[name] = dataclasses.replace(self.__dict__[name], calibration=made)
        if self.optimistic and "validation" in self.__dict__:
            context.__dict__["found"] = context.__dict__["validation"]
        return context

    def predict(self, split: Split) -> Predictions:
        """Pass a split through the model."""
        return predicted(
            self.run, split, self.settings.batch_size, f"predicting {split.name}", self.say, self.settings.tta
        )
