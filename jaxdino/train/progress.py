"""Where a run is: the counters that a checkpoint keeps as JSON, the stop signal, and the tables it prints."""

import dataclasses
import math
import signal
import threading
import time
from typing import Any

import jax

from jaxdino.stage import Stage


@dataclasses.dataclass
class Progress:
    """The counters of a run; everything that is not an array and that going on depends on.

    Attributes:
      stage: index of the stage. step: steps of the whole run. stage_step: of this stage.
      epochs: validated epochs of this stage. validated: its step at the last validation.
      measured: loss and so on of the last step.
      best: the stage's best value of its monitored metric, and `best_metrics` all metrics with it.
      reference, stale: the plateau rule: the last value that gained min_delta, and epochs since then.
      seconds: spent in this stage, over all sessions.
      best_model: index of the stage whose model is in best/, and all its metrics: {"stage": 0, "val_loss": ...}.
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
    measured: dict[str, float] = dataclasses.field(default_factory=dict)
    best: float | None = None
    best_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    reference: float | None = None
    stale: int = 0
    seconds: float = 0.0
    best_model: dict[str, Any] | None = None
    unread: int = 0
    done: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    batches: dict[str, Any] | None = None
    log_size: int = 0
    bad: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    baseline: dict[str, float] = dataclasses.field(default_factory=dict)
    health: dict[str, Any] = dataclasses.field(default_factory=dict)

    def judge(self, stage: Stage, metrics: dict[str, float], healthy: bool = True) -> bool:
        """Counts a validated epoch; True if it is the stage's best so far. A metric that is nan never is.

        A stage that monitors nothing takes the latest for the best; an epoch without the metric, or while the run is
        not healthy, is only counted.
        """
        self.epochs += 1
        if not healthy:
            return False
        if not stage.monitor:
            self.best_metrics = self.best_metrics | metrics
            return True
        if stage.monitor not in metrics:
            return False
        value = metrics[stage.monitor]
        gain = math.nan if math.isnan(value) else stage.gain(value, self.reference)
        if gain > 0 and gain >= stage.min_delta:
            self.reference, self.stale = value, 0
        else:
            self.stale += 1
        better = not math.isnan(value) and stage.gain(value, self.best) > 0
        if better:
            self.best, self.best_metrics = value, metrics
        return better

    def at_plateau(self, stage: Stage) -> bool:
        """Whether `patience` epochs in a row have not gained `min_delta`."""
        return stage.plateaus and self.stale >= stage.patience

    def beats_best_model(self, last: Stage) -> bool:
        """Whether this stage's best is better than the model in best/, by what the run's last stage monitors.

        On an exact tie the lower val_loss decides; what has no such metric, or nan, never wins over what has.
        """
        if self.best_model is None or not last.monitor:
            return True
        mine, theirs = (found.get(last.monitor, math.nan) for found in (self.best_metrics, self.best_model))
        if math.isnan(mine) or math.isnan(theirs):
            return math.isnan(theirs) and not math.isnan(mine)
        if mine == theirs:
            return self.best_metrics.get("val_loss", 0.0) < self.best_model.get("val_loss", math.inf)
        return last.gain(mine, theirs) > 0

    def next_stage(self, hands_on: bool) -> "Progress":
        """The counters at the start of the stage after this one, whose start may count as its best so far."""
        names = ("step", "best_model", "done", "bad", "baseline", "health")
        names += ("best", "best_metrics") if hands_on else ()
        return Progress(stage=self.stage + 1, **{name: getattr(self, name) for name in names})


class Stop:
    """SIGTERM as a question that the loop asks between two steps. A context manager."""

    def __init__(self):
        self._asked = False

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_before"):
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def asked(self) -> bool:
        """Whether any process of the run was told to stop; all of them get the same answer."""
        if jax.process_count() == 1:
            return self._asked
        from jax.experimental import multihost_utils

        return bool(multihost_utils.process_allgather(self._asked).any())


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

    def read(self) -> float:
        """Images a second since the last reading; starts anew."""
        rate = self._images / max(time.perf_counter() - self._since, 1e-9)
        self.restart()
        return rate


def results_table(entries: list[dict[str, Any]], shown: str) -> str:
    """The table at a run's end: stage, % trainable, the metric named `shown`, seconds."""
    rows = [("stage", "% trainable", shown.replace("_", " "), "seconds")]
    for entry in entries:
        value = entry.get(shown)
        rows.append(
            (
                entry["name"],
                f"{100 * entry['trainable_fraction']:.2f}",
                "-" if value is None else f"{value:.4f}",
                f"{entry['seconds']:.1f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
