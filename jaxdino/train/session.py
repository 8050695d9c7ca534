"""One run in one process: its folder, its checkpoints, and what one stage passes to the next."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from jaxdino.core import processes, sharding
from jaxdino.core.json_file import write_json
from jaxdino.core.rules import patterns
from jaxdino.data.bad_images import BadImages, check_read
from jaxdino.data.pipeline import Batch, EvalBatches
from jaxdino.train import checkpoint, state
from jaxdino.train.begin import begin_stage, shapes
from jaxdino.train.compile_ahead import CompileAhead
from jaxdino.train.metric_log import MetricLog
from jaxdino.train.pace import Pace
from jaxdino.train.progress import Progress
from jaxdino.train.run_page import write_page
from jaxdino.train.setup import Setup
from jaxdino.train.stop import Stop
from jaxdino.train.task import Part
from jaxdino.train.workdir import STAGES, SUMMARY, Workdir, say
from jaxdino.train.writers import Writers


class Session:
    """State of one run in one process: setup, run folder, checkpoints and progress."""

    def __init__(self, setup: Setup, folder: Workdir, stop: Stop, on_step: Callable[[int], None] | None):
        self.setup, self.folder, self.stop, self.on_step = setup, folder, stop, on_step
        self.checkpoints = checkpoint.Checkpoints(folder / "checkpoints", setup.config.checkpoint.keep, say)
        saved = self.checkpoints.latest()
        self.saved_step = saved and saved[0]
        self.progress = Progress.of(saved[1]) if saved else Progress()
        self.pace, self.ahead = Pace(setup.parts), CompileAhead(self)
        self.chief, self.healthy = processes.chief(), True
        self.other_data = False  # whether the data has changed since the run began, and this was accepted
        self._remarked: dict[str, int] = {}
        writers = Writers(folder.folder, folder.config, say)
        self.log = MetricLog(folder.folder, self.progress, say, writers) if self.chief else None

    def where(self, tree: Any) -> Any:
        """Return the shardings of a tree of arrays."""
        return sharding.shardings(tree, self.setup.mesh, self.setup.rules)

    def begin(self, part: Part, before: state.State | None) -> state.State:
        """Return the state at a stage's start: restored, from the previous stage, or from the run's initial weights."""
        if before is None and self.saved_step is not None:
            return self._restored(part)
        return begin_stage(self.setup, part, before)

    def _restored(self, part: Part) -> state.State:
        self.setup.task.flat = {}
        like = shapes(self.setup, part)
        say(f"resuming after step {self.saved_step}, in stage {part.stage.name}")
        return self.checkpoints.restore(self.saved_step, checkpoint.abstract(like, self.where(like)))

    def save(self, current: state.State) -> None:
        """Save everything in the background, unless this step is already saved.

        While the task's alarms are active nothing is saved: a resumed run repeats the steps since the last checkpoint.
        """
        self.folder.lock.check()
        if self.progress.step != self.saved_step and self.healthy:
            if self.log:
                self.log.mark(self.progress)
            self.checkpoints.save(self.progress.step, current, dataclasses.asdict(self.progress))
            self.saved_step = self.progress.step

    def each(self, split: str, batches: EvalBatches) -> Iterator[Batch]:
        """Yield the batches of one pass over a split, then name the images that were skipped.

        Raises:
          Stopped: when the run is asked to stop during the pass.
          UserError: if no image could be read.
        """
        for batch in batches:
            self.stop.check()
            yield batch
        count = self.note_bad(split, batches.bad)
        check_read(batches.bad, count, len(batches.bad.split), say)

    def note_bad(self, split: str, found: BadImages) -> int:
        """Record the images of a split that were skipped in any process, print each new one once; return how many."""
        known, name_of = self.progress.bad.setdefault(split, {}), found.split.record_name
        new = {index: reason for index, reason in found.reasons.items() if name_of(index) not in known}
        mine = {"new": new, "all": list(found.reasons), "remarks": found.remarks}
        everyone = processes.exchange(f"skipped images of {split}", mine)
        for one in everyone:
            for index, reason in one["new"].items():
                if (name := name_of(int(index))) not in known:
                    say(f"skipped {name}: {reason}")
                    known[name] = reason
            for index, line in one["remarks"].items():
                found.remark(int(index), line)
        if len(found.remarks) > self._remarked.get(split, 0):
            self._remarked[split] = len(found.remarks)
            say(found.remarked())
        return len({index for one in everyone for index in one["all"]})

    def end(self, part: Part, current: state.State) -> None:
        """End a stage: add its summary entry, save the best model so far, go to the next stage.

        The plots are drawn again, after the last stage only once the run is finished.
        """
        now = self.progress
        entry = {
            "name": part.stage.name,
            "epochs": now.epochs,
            "max_epochs": part.max_epochs,
            "best_epoch": now.best_epoch(part.stage),
            "steps": now.stage_step,
            "trainable_params": part.plan.trainable_params,
            "trainable_fraction": part.plan.trainable_fraction,
            "trainable_paths": patterns(part.plan.trainable),
            **now.best_metrics,
            "seconds": round(now.seconds, 2),
        }
        now.done = [*now.done, entry]
        if now.beats_best_model(self.setup.parts[-1].stage):
            now.best_model = {"stage": part.index, "origin": now.origin, **now.best_metrics}
            self.save_best(part, current)
        self.keep_stage_model(part, part.index + 1, part.stage.name, current)
        self.setup.task.end(self, part, current)
        self.write_summary(draw=part is not self.setup.parts[-1])
        for after in self.setup.parts[part.index + 1 : part.index + 2]:
            alike = (after.at(0).image_size, after.stage.monitor) == (part.image_size, part.stage.monitor)
            self.progress = now.next_stage(part.stage, self.setup.task.hands_on, alike)

    @property
    def delivered(self) -> dict[str, Any]:
        """Return where the model in best/ comes from: {"stage": name, "epoch": n}; {} for the initial weights."""
        best = self.progress.best_model or {}
        stage = self.setup.parts[best.get("stage", 0)].stage.name
        return best.get("origin", {"stage": stage})

    def save_best(self, part: Part, current: state.State) -> None:
        """Write the stage's best model."""
        self.folder.lock.check()
        host = sharding.gather(state.whole(current["best"], current["frozen"]))
        if self.chief:
            now = self.progress
            self.setup.task.save_best(self.folder.folder, part.at(now.size_place), host, now.best_metrics)
        processes.wait_until_visible(self.folder / "best")

    def keep_stage_model(self, part: Part, number: int, name: str, current: state.State) -> None:
        """With `checkpoint.stage_models`, write the best model of a state to stages/NUMBER_NAME/best."""
        if not self.setup.config.checkpoint.get("stage_models"):
            return
        self.folder.lock.check()
        host = sharding.gather(state.whole(current["best"], current["frozen"]))
        plain = re.sub(r"[^\w.-]+", "-", name)[:60]
        place = self.folder / STAGES / f"{number}_{plain}"
        if self.chief:
            place.mkdir(parents=True, exist_ok=True)
            self.setup.task.save_best(place, part.at(self.progress.size_place), host, {})
        processes.wait_until_visible(place / "best")

    def write_summary(self, draw: bool = True, **more: Any) -> None:
        """Write summary.json, and draw the plots of the run so far."""
        self.folder.lock.check()
        if self.chief:
            task = self.setup.task
            fixed = {"model": task.spec.name, "class_names": list(task.source.class_names)}
            skipped = {split: len(found) for split, found in self.progress.bad.items()}
            found = {"stages": self.progress.done, **fixed, "skipped_images": skipped, "finished": False}
            if self.progress.best_model:
                found["delivered"] = self.delivered
            write_json(self.folder / SUMMARY, found | more)
            if draw:
                task.pictures(self)
                write_page(self, found | more)
        if self.log and more.get("finished"):
            self.log.writers.finish(more)

    def close(self) -> None:
        """Finish writing and close."""
        with ExitStack() as each:  # each is closed, from the last to the first, if another fails
            each.callback(self.ahead.close)  # the last: it may take minutes, and everything is saved by then
            if self.log:
                each.callback(self.log.close)
            each.callback(self.checkpoints.close)
