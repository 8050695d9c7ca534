"""Where a run is: the counters that a checkpoint keeps as JSON, and which weights are the best so far."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

from jaxdino.core.metric_names import renamed
from jaxdino.stage import Stage

Metrics = dict[str, float]


@dataclasses.dataclass
class Progress:
    """The counters of a run; everything that is not an array and that going on depends on.

    Attributes:
      stage: index of the stage. step: steps of the whole run. stage_step: of this stage.
      epochs: validated epochs of this stage. validated: its step at the last validation.
      measured: loss and so on of the last step.
      best: the stage's best value of its monitored metric, and `best_metrics` all metrics with it. Where what the stage
        started from is measured, it is the first of them.
      origin: where the best weights come from, {"stage": name, "epoch": n}; {} for what the run started from.
      latest: what was measured at the last validation.
      reference, stale: the plateau rule: the last value that gained min_delta, and epochs since then.
      seconds: spent in this stage, over all sessions.
      best_model: index of the stage whose model is in best/, where its weights come from, and all its metrics:
        {"stage": 0, "origin": {...}, "val/loss": ...}.
      unread: places in the batches since the last validation whose image could not be read.
      done: the summary's entries of the stages before.
      batches: the position of the training data. log_size: bytes of metrics.jsonl.
      bad: {split: {name: reason}} of the images that were skipped.
      baseline: what was measured before the first step. health: what the task remembers of its alarms.
    """

    stage: int = 0
    step: int = 0
    stage_step: int = 0
    epochs: int = 0
    validated: int = 0
    measured: Metrics = dataclasses.field(default_factory=dict)
    best: float | None = None
    best_metrics: Metrics = dataclasses.field(default_factory=dict)
    origin: dict[str, Any] = dataclasses.field(default_factory=dict)
    latest: Metrics = dataclasses.field(default_factory=dict)
    reference: float | None = None
    stale: int = 0
    seconds: float = 0.0
    best_model: dict[str, Any] | None = None
    unread: int = 0
    done: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    batches: dict[str, Any] | None = None
    log_size: int = 0
    bad: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    baseline: Metrics = dataclasses.field(default_factory=dict)
    health: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> "Progress":
        """Read the counters that a checkpoint keeps."""
        return cls(**{name: value if name == "health" else renamed(value) for name, value in saved.items()})

    def start(self, stage: Stage, metrics: Metrics) -> None:
        """Count what the stage starts from as its best so far."""
        if not math.isnan(metrics[stage.monitor]):
            self.best, self.best_metrics = metrics[stage.monitor], metrics

    def judge(self, stage: Stage, metrics: Metrics, healthy: bool = True) -> bool:
        """Counts a validated epoch; True if it is the stage's best so far. A metric that is nan never is.

        A stage that monitors nothing takes the latest for the best; an epoch without the metric, or while the run is
        not healthy, is only counted. On an exact tie with what the stage was given the lower val/loss decides; of its
        own epochs the first is kept.
        """
        self.epochs += 1
        self.latest = metrics if healthy else {}
        if not healthy or (stage.monitor and stage.monitor not in metrics):
            return False
        here = {"stage": stage.name, "epoch": self.epochs}
        if not stage.monitor:
            self.best_metrics, self.origin = self.best_metrics | metrics, here
            return True
        value = metrics[stage.monitor]
        gain = math.nan if math.isnan(value) else stage.gain(value, self.reference)
        if gain > 0 and gain >= stage.min_delta:
            self.reference, self.stale = value, 0
        else:
            self.stale += 1
        given = value == self.best and not self.best_epoch(stage)
        tie = given and metrics.get("val/loss", math.inf) < self.best_metrics.get("val/loss", -math.inf)
        better = not math.isnan(value) and (tie or stage.gain(value, self.best) > 0)
        if better:
            self.best, self.best_metrics, self.origin = value, metrics, here
        return better

    def at_plateau(self, stage: Stage) -> bool:
        """Whether `patience` epochs in a row have not gained `min_delta`."""
        return stage.plateaus and self.stale >= stage.patience

    def beats_best_model(self, last: Stage) -> bool:
        """Whether this stage's best is better than the model in best/, by what the run's last stage monitors.

        On an exact tie the lower val/loss decides; what has no such metric, or nan, never wins over what has.
        """
        if self.best_model is None or not last.monitor:
            return True
        mine, theirs = (found.get(last.monitor, math.nan) for found in (self.best_metrics, self.best_model))
        if math.isnan(mine) or math.isnan(theirs):
            return math.isnan(theirs) and not math.isnan(mine)
        if mine == theirs:
            return self.best_metrics.get("val/loss", 0.0) < self.best_model.get("val/loss", math.inf)
        return last.gain(mine, theirs) > 0

    def best_epoch(self, stage: Stage) -> int:
        """The epoch of this stage that its best weights come from; 0 if they are those it started from."""
        return self.origin["epoch"] if self.origin.get("stage") == stage.name else 0

    def next_stage(self, stage: Stage, handed_on: str, alike: bool) -> "Progress":
        """The counters at the start of the stage after `stage`.

        Args:
          handed_on: what the next stage starts from, the "best" weights or the "latest".
          alike: whether both stages measure the same, so that what is known of these weights holds there too.
        """
        names = ("step", "best_model", "done", "bad", "baseline", "health")
        after = Progress(stage=self.stage + 1, **{name: getattr(self, name) for name in names})
        latest = handed_on == "latest"
        after.origin = {"stage": stage.name, "epoch": self.epochs} if latest else self.origin
        known = self.latest if latest else self.best_metrics
        if alike and stage.monitor in known:
            after.start(stage, known)
        return after


class Rate:
    """Images a second since the last reading; validation and saving are left out by `restart`."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Starts counting anew."""
        self._since, self._images = time.perf_counter(), 0

    def add(self, images: int) -> None:
        """Counts the images of a step."""
        self._images += images

    def read(self) -> float | None:
        """Images a second since the last reading, None if there were none; starts anew."""
        rate = self._images / max(time.perf_counter() - self._since, 1e-9)
        images = self._images
        self.restart()
        return rate if images else None
