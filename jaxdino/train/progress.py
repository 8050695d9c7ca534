"""Progress of a run: the counters that a checkpoint stores as JSON, and which weights are the best so far."""

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
    """Counters of a run: everything except arrays that is needed to resume it.

    Attributes:
      stage: index of the stage. step: steps of the whole run. stage_step: steps of this stage.
      epochs: validated epochs of this stage. validated: step of this stage at the last validation.
      measured: loss and other measures of the last step.
      best: the stage's best value of its monitored metric. best_metrics: all metrics of the same weights. If the
        initial weights of the stage are evaluated, their metrics are the first best.
      origin: where the best weights come from, {"stage": name, "epoch": n}; {} for the initial weights of the run.
      latest: metrics of the last validation.
      size_place: index in the stage's schedule of image sizes of the size at which the best weights were evaluated.
      reference, stale: state of the plateau rule: the last value that gained min_delta, and the epochs since then.
      seconds: time spent in this stage, over all sessions.
      best_model: index of the stage whose model is in best/, where its weights come from, and all its metrics:
        {"stage": 0, "origin": {...}, "val/loss": ...}.
      unread: batch entries since the last validation whose image could not be read.
      done: summary entries of the earlier stages.
      batches: position in the training data.
      log_size, log_lines, log_sha256: size, lines and SHA-256 of metrics.jsonl; 0 and "" where they are not known.
      bad: {split: {name: reason}} of the images that were skipped.
      baseline: metrics from before the first step. health: state of the task's alarms.
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
    size_place: int = 0
    reference: float | None = None
    stale: int = 0
    seconds: float = 0.0
    best_model: dict[str, Any] | None = None
    unread: int = 0
    done: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    batches: dict[str, Any] | None = None
    log_size: int = 0
    log_lines: int = 0
    log_sha256: str = ""
    bad: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    baseline: Metrics = dataclasses.field(default_factory=dict)
    health: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, saved: Mapping[str, Any]) -> "Progress":
        """Load the counters stored in a checkpoint."""
        return cls(**{name: value if name == "health" else renamed(value) for name, value in saved.items()})

    def start(self, stage: Stage, metrics: Metrics) -> None:
        """Record the metrics of the stage's initial weights as its best so far."""
        if not math.isnan(metrics[stage.monitor]):
            self.best, self.best_metrics = metrics[stage.monitor], metrics

    def judge(self, stage: Stage, metrics: Metrics, healthy: bool = True) -> bool:
        """Count a validated epoch and return whether it is the stage's best so far. NaN is never the best.

        Without a monitored metric, the latest epoch is the best. An epoch without the metric, or of an unhealthy run,
        is only counted. On an exact tie with the stage's initial weights, the lower val/loss wins; on a tie between
        epochs, the first one is kept.
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

    def resized(self, stage: Stage, place: int, metrics: Metrics) -> None:
        """Go to another image size, with the metrics of the best weights at that size; the plateau rule begins anew.

        Args:
          place: index of the size in the stage's schedule. metrics: {} if the best weights are not known by a metric.
        """
        self.size_place, self.reference, self.stale = place, None, 0
        if metrics:
            value = metrics[stage.monitor]
            self.best, self.best_metrics = None if math.isnan(value) else value, metrics

    def at_plateau(self, stage: Stage) -> bool:
        """Return whether the metric has not gained `min_delta` for `patience` epochs in a row, at the last size."""
        last = self.size_place == max(len(stage.image_size or ()) - 1, 0)
        return stage.plateaus and last and self.stale >= stage.patience

    def beats_best_model(self, last: Stage) -> bool:
        """Return whether this stage's best is better than the model in best/, by the metric of the run's last stage.

        On an exact tie the lower val/loss wins. A model without the metric, or with NaN, never replaces one with it.
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
        """Return the epoch of this stage that its best weights come from, or 0 if they are its initial weights."""
        return self.origin["epoch"] if self.origin.get("stage") == stage.name else 0

    def next_stage(self, stage: Stage, handed_on: str, alike: bool) -> "Progress":
        """Return the counters at the start of the stage after `stage`.

        Args:
          handed_on: the weights that the next stage starts from, "best" or "latest".
          alike: whether both stages validate in the same way, so that the metrics of these weights stay valid.
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
    """Images per second since the last reading. Call `restart` to exclude validation and saving."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        """Restart the count."""
        self._since, self._images = time.perf_counter(), 0

    def add(self, images: int) -> None:
        """Count the images of a step."""
        self._images += images

    def read(self) -> float | None:
        """Return images per second since the last reading, or None if there were no images; restart the count."""
        rate = self._images / max(time.perf_counter() - self._since, 1e-9)
        images = self._images
        self.restart()
        return rate if images else None
