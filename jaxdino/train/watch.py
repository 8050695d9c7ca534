"""What happens between the steps of a stage: progress bar, metrics.jsonl, saving, stopping."""

import time
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdino import optim
from jaxdino.core import bars, processes
from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import check_read
from jaxdino.data.pipeline import TrainIter
from jaxdino.train.memory import in_use
from jaxdino.train.progress import Rate
from jaxdino.train.results import model_words
from jaxdino.train.state import State
from jaxdino.train.stop import Stopped
from jaxdino.train.task import Part
from jaxdino.train.waiting import Waiting
from jaxdino.train.workdir import say

if TYPE_CHECKING:
    from jaxdino.train.session import Session


class Lost(UserError):
    """The run has collapsed; the checkpoints and the best model are from before the collapse."""


class Watch:
    """Log and save one stage while its state, `current`, changes. A context manager; saves when it is stopped."""

    def __init__(self, session: "Session", part: Part, current: State, batches: TrainIter):
        self.session, self.part, self.current, self.batches = session, part, current, batches
        self.now = session.progress
        self.measured: dict[str, Any] = self.now.measured
        self._rates = optim.learning_rates(part.plan, part.stage, part.total_steps, part.steps_per_epoch)
        self._since, self._before, self._rate = time.perf_counter(), self.now.seconds, Rate()
        self.waiting = Waiting()
        self._losses: list[float] = []  # logged since the last validation

    def __enter__(self) -> "Watch":
        count = len(self.session.setup.parts)
        name, place = self.part.stage.name, f" ({self.part.index + 1} of {count})" if count > 1 else ""
        self._bar = bars.stage_bar(
            self.part.total_steps, self.now.stage_step, name + place, hidden=not processes.chief()
        )
        self.session.pace.begin()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is Stopped:
            self.save()
            self.session.checkpoints.wait()
        if kind is Lost:
            self.session.save_best(self.part, self.current)
        if kind is None:
            self._bar.total = self._bar.n  # a plateau may end a stage before its limit
            if self._bar.leave:
                self._bar.refresh()
        self._bar.close()
        self.batches.close()
        self.waiting.close()

    def start(self, metrics: dict[str, float]) -> None:
        """Print the metric of the stage's initial weights; if it was measured now, record it as the best so far."""
        now, stage = self.now, self.part.stage
        if stage.monitor in metrics:
            now.start(stage, metrics)
        if now.best is not None:
            origin = model_words(now.origin)
            say(f"{stage.name}: starts at {stage.monitor} {now.best:.4f} ({origin}), its best until an epoch is better")
        self.session.pace.begin()

    def stepped(self, measured: dict[str, jax.Array], shapes: Hashable = ()) -> None:
        """Count a step with a batch of these shapes; log, save and stop when due."""
        now, config = self.now, self.session.setup.config
        self.measured = measured
        self.waiting.stepped(measured["loss"])
        now.step, now.stage_step = now.step + 1, now.stage_step + 1
        if self.session.pace.stepped(self.part, measured, self._place, shapes):
            self._restart()  # exclude the step that compiled
        else:
            self._rate.add(self.part.stage.batch_size)
        self.session.folder.lock.check()
        self.session.stop.stepped()
        self._bar.update()
        if self.due_validation():
            images = (now.stage_step - now.validated) * self.part.stage.batch_size // processes.count()
            check_read(self.batches.bad, now.unread, images, say)
        else:
            if now.step % config.log_every == 0:
                self.record()
            if config.checkpoint.every_steps and now.step % config.checkpoint.every_steps == 0:
                self.save()
        if self.session.on_step:
            self.session.on_step(now.step)
        self.session.stop.check()

    @property
    def _place(self) -> int:
        """The entry of the schedule of image sizes for the last step."""
        return self.part.sizes.place((self.now.stage_step - 1) // self.part.steps_per_epoch)

    def due_validation(self) -> bool:
        """Return whether an epoch or the stage has ended and is not validated yet."""
        at_end = self.now.stage_step % self.part.steps_per_epoch == 0 or self.finished()
        return at_end and self.now.stage_step > self.now.validated

    def finished(self) -> bool:
        """Return whether the stage has taken all its steps."""
        return self.now.stage_step >= self.part.total_steps

    def validated(self, metrics: dict[str, float]) -> None:
        """Log the metrics at an epoch's end, and let the task's alarms check them."""
        self.now.validated, self.now.unread = self.now.stage_step, 0
        self.record(**metrics)

    def end_epoch(self, metrics: dict[str, float]) -> None:
        """Print the epoch's results, and save when due."""
        now, stage, session = self.now, self.part.stage, self.session
        if now.epochs % session.setup.config.checkpoint.every_epochs == 0 or self.finished():
            self.save()
        session.pace.ended_epoch()
        words = [f"epoch {now.epochs} of {self.part.max_epochs}", f"loss {np.mean(self._losses):.4f}"]
        shown = stage.monitor or next(iter(session.setup.task.monitors), None)
        if shown in metrics:
            words.append(f"{shown} {metrics[shown]:.4f}")
        if now.best is not None:
            epoch = now.best_epoch(stage)
            words.append(f"best {now.best:.4f} ({f'epoch {epoch}' if epoch else 'as given'})")
        words.append(session.pace.words(self.part, now.stage_step))
        say(f"{stage.name}: {', '.join(filter(None, words))}")
        self._losses.clear()
        self._restart()

    def stopped_early(self) -> None:
        """Print that a plateau ended the stage."""
        now, stage = self.now, self.part.stage
        if self.finished():
            return
        epoch = now.best_epoch(stage)
        moved = f"gained {stage.min_delta:g}" if stage.min_delta else "become better"
        epochs = f"{now.stale} epoch{'s' if now.stale > 1 else ''}"
        best = "" if now.best is None else f" (best {now.best:.4f} {f'at epoch {epoch}' if epoch else 'as given'})"
        say(
            f"stage {stage.name!r} stopped early at epoch {now.epochs} of {self.part.max_epochs}: {stage.monitor} has "
            f"not {moved} for {epochs}{best}"
        )

    def record(self, **more: float) -> None:
        """Write a line of metrics.jsonl. Raises UserError if the loss is not finite."""
        now, stage = self.now, self.part.stage
        line = self._floats()
        if not np.isfinite(line["loss"]) and self.session.setup.config.precision != "float16":
            raise UserError(
                f"the loss is {line['loss']} at step {now.stage_step} of stage {stage.name!r}: lower its learning "
                "rates or set optimizer.clip_norm, and start in a new --workdir. --config.debug.nan=True names the "
                "layer and the images"
            )
        self._losses.append(line["loss"])
        rate, lrs = self._rate.read(), self._rates(now.stage_step - 1)
        speed = {
            "images_per_second": rate and round(rate, 2),
            "waiting": rate and round(self.waiting.read(), 4),
            **in_use(),
        }
        words = [f"loss {line['loss']:.4f}", *speed_words(speed)]
        words.append(self.session.pace.words(self.part, now.stage_step))
        bars.show(self._bar, ", ".join(filter(None, words)))
        line |= {
            "learning_rates": {group: float(f"{lr:.7g}") for group, lr in lrs.items()},  # float32 precision
            **speed,
            "epoch": (now.stage_step - 1) // self.part.steps_per_epoch + 1,
            "step": now.step,
        }
        if len(self.part.sizes.schedule) > 1:
            height, width = self.part.at(self._place).image_size
            line["image_size"] = {"height": height, "width": width}
        if self.session.log:
            self.session.log.write({"stage": stage.name} | line | more)
        self.session.setup.task.judge(self.session, line | more)

    def save(self) -> None:
        """Save the state and all counters in the background."""
        now = self.now
        now.batches, now.measured = self.batches.state(), self._floats()
        now.seconds = self._before + time.perf_counter() - self._since
        self.session.note_bad("train", self.batches.bad)
        self.session.save(self.current)
        self._restart()

    def skip(self) -> None:
        """Leave the time since the last step or epoch out of all rates."""
        self.session.pace.skip()
        self._restart()

    def _restart(self) -> None:
        self._rate.restart()
        self.waiting.restart()

    def _floats(self) -> dict[str, float]:
        if all(isinstance(value, float) for value in self.measured.values()):  # as restored from a checkpoint
            return dict(self.measured)
        return self.session.setup.task.reading(self.measured)


def speed_words(found: Mapping[str, float | None]) -> list[str]:
    """Format images/s, the share of time waiting for data, and the memory, as far as they are known."""
    words = []
    if found["images_per_second"]:
        words += [f"{found['images_per_second']:.0f} images/s", f"{found['waiting']:.0%} waiting for data"]
    for name, what in (("device_memory_gib", "device"), ("process_memory_gib", "process")):
        if name in found:
            words.append(f"{found[name]:.1f} GiB ({what})")
    return words
