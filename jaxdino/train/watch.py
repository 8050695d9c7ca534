"""What goes on beside the steps of a stage: the progress bar, the lines of metrics.jsonl, saving, stopping."""

import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxdino import optim
from jaxdino.core.errors import UserError
from jaxdino.data.checks import check_read
from jaxdino.data.pipeline import TrainIter
from jaxdino.train.progress import Rate
from jaxdino.train.state import State
from jaxdino.train.task import Part
from jaxdino.train.workdir import say


class Stopped(Exception):
    """SIGTERM was received; when this leaves a stage, everything is saved."""


class Lost(UserError):
    """The run is past saving; the checkpoints and the best model are from before."""


class Watch:
    """Looks after one stage while `current`, its state, changes. A context manager; saves when it is stopped."""

    def __init__(self, session: Any, part: Part, current: State, batches: TrainIter):
        self.session, self.part, self.current, self.batches = session, part, current, batches
        self.now = session.progress
        self.measured: dict[str, Any] = self.now.measured
        self._rates = optim.learning_rates(part.plan, part.stage, part.total_steps, part.steps_per_epoch)
        self._since, self._before, self._rate = time.perf_counter(), self.now.seconds, Rate()

    def __enter__(self) -> "Watch":
        self._bar = tqdm(
            total=self.part.total_steps,
            initial=self.now.stage_step,
            desc=self.part.stage.name,
            unit="step",
            disable=jax.process_index() > 0,
            dynamic_ncols=True,
        )
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is Stopped:
            self.save()
            self.session.checkpoints.wait()
        if kind is Lost:
            self.session.save_best(self.part, self.current)
        self._bar.close()
        self.batches.close()

    def stepped(self, measured: dict[str, jax.Array]) -> None:
        """Counts a step: logs, saves and stops where it is time to."""
        now, config = self.now, self.session.job.config
        self.measured = measured
        now.step, now.stage_step = now.step + 1, now.stage_step + 1
        self._rate.add(self.part.stage.batch_size)
        self._bar.update()
        if self.due_validation():
            images = (now.stage_step - now.validated) * self.part.stage.batch_size // jax.process_count()
            check_read(self.batches.bad, now.unread, images, say)
        else:
            if now.step % config.log_every == 0:
                self.record()
            if config.checkpoint.every_steps and now.step % config.checkpoint.every_steps == 0:
                self.save()
        if self.session.on_step:
            self.session.on_step(now.step)
        if self.session.stop.asked():
            raise Stopped

    def due_validation(self) -> bool:
        """Whether the state stands at an end, of an epoch or of the stage, that has not been validated."""
        at_end = self.now.stage_step % self.part.steps_per_epoch == 0 or self.finished()
        return at_end and self.now.stage_step > self.now.validated

    def finished(self) -> bool:
        """Whether the stage has taken all its steps."""
        return self.now.stage_step >= self.part.total_steps

    def validated(self, metrics: dict[str, float]) -> None:
        """Logs what was measured at an epoch's end; the task's alarms look at it."""
        self.now.validated, self.now.unread = self.now.stage_step, 0
        self.record(**metrics)

    def end_epoch(self, metrics: dict[str, float]) -> None:
        """Tells how it went, and saves where it is time to."""
        shown = self.part.stage.monitor or self.session.job.task.shown
        value = f", {shown} {metrics[shown]:.4f}" if shown in metrics else ""
        best = "" if self.now.best is None else f", best {self.now.best:.4f}"
        say(f"{self.part.stage.name}: epoch {self.now.epochs}{value}{best}")
        if self.now.epochs % self.session.job.config.checkpoint.every_epochs == 0 or self.finished():
            self.save()
        self._rate.restart()

    def record(self, **more: float) -> None:
        """Writes a line of metrics.jsonl. Raises UserError if the loss is not finite."""
        now, stage = self.now, self.part.stage
        line = self._floats()
        if not np.isfinite(line["loss"]) and self.session.job.config.precision != "float16":
            raise UserError(
                f"the loss is {line['loss']} at step {now.stage_step} of stage {stage.name!r}: lower its learning "
                "rates or set optimizer.clip_norm, and start in a new --workdir"
            )
        rate, lrs = self._rate.read(), self._rates(now.stage_step - 1)
        self._bar.set_postfix_str(f"loss {line['loss']:.4f}, {rate:.0f} images/s")
        line |= {
            "learning_rates": {group: float(f"{lr:.7g}") for group, lr in lrs.items()},  # all that float32 tells
            "images_per_second": round(rate, 2),
            "epoch": (now.stage_step - 1) // self.part.steps_per_epoch + 1,
            "step": now.step,
        }
        if self.session.log:
            self.session.log.write({"stage": stage.name} | line | more)
        self.session.job.task.judge(self.session, line | more)

    def save(self) -> None:
        """Saves the state and all counters, in the background."""
        now = self.now
        now.batches, now.measured = self.batches.state(), self._floats()
        now.seconds = self._before + time.perf_counter() - self._since
        self.session.note_bad("train", self.batches.bad)
        self.session.save(self.current)
        self._rate.restart()

    def _floats(self) -> dict[str, float]:
        if all(isinstance(value, float) for value in self.measured.values()):  # as a checkpoint remembers them
            return dict(self.measured)
        return self.session.job.task.reading(self.measured)
