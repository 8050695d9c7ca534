"""One run in one process: its folder, its checkpoints, and what passes from stage to stage."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxdino import optim
from jaxdino.core import sharding
from jaxdino.data.checks import BadImages
from jaxdino.train import checkpoint, plots, state, weights
from jaxdino.train.job import Job, Part
from jaxdino.train.progress import Progress, Stop
from jaxdino.train.workdir import MetricLog, Workdir, say, write_json


class Session:
    """One run in one process: the job, its folder, and where it is."""

    def __init__(self, job: Job, folder: Workdir, stop: Stop, on_step: Callable[[int], None] | None):
        self.job, self.folder, self.stop, self.on_step = job, folder, stop, on_step
        self.checkpoints = checkpoint.Checkpoints(folder / "checkpoints", job.config.checkpoint.keep, say)
        saved = self.checkpoints.latest()
        self.saved_step = saved and saved[0]
        self.progress = Progress(**saved[1]) if saved else Progress()
        self.chief = jax.process_index() == 0
        self.log = MetricLog(folder, self.progress.log_size) if self.chief else None

    def where(self, tree: Any) -> Any:
        """The shardings of a tree of arrays."""
        return sharding.shardings(tree, self.job.mesh, self.job.rules)

    def begin(self, part: Part, before: state.State | None) -> state.State:
        """The state at a stage's start: restored, or made of the stage before or the run's first weights."""
        if before is None and self.saved_step is not None:
            return self._restored(part)
        if before is None:
            flat, opt = sharding.put(self.job.flat, self.where(self.job.flat)), None
        else:
            flat, opt = state.whole(before["best"], before["frozen"]), before["moving"]["opt"]
        job, ema = self.job, part.stage.ema_decay > 0
        begun = state.begin(
            flat, part.skeleton, part.plan, part.tx, seed=part.seed, ema=ema, mesh=job.mesh, rules=job.rules
        )
        if opt is not None:
            carried = optim.carry(opt, begun["moving"]["opt"])
            begun["moving"]["opt"] = jax.device_put(carried, self.where(carried))
        return begun

    def _restored(self, part: Part) -> state.State:
        like = state.abstract(part.skeleton, part.plan, part.tx, part.stage.ema_decay > 0)
        say(f"going on after step {self.saved_step}, in stage {part.stage.name}")
        return self.checkpoints.restore(self.saved_step, checkpoint.abstract(like, self.where(like)))

    def save(self, current: state.State) -> None:
        """Saves everything in the background; a step that is saved already leads to the same future."""
        if self.progress.step != self.saved_step:
            self.progress.log_size = self.log.size if self.log else 0
            self.checkpoints.save(self.progress.step, current, dataclasses.asdict(self.progress))
            self.saved_step = self.progress.step

    def note_bad(self, split: str, found: BadImages) -> None:
        """Remembers the images of a split that were skipped, and names each new one once."""
        known = self.progress.bad.setdefault(split, {})
        for index, reason in found.reasons.items():
            name = found.split.record_name(index)
            if name not in known:
                say(f"skipped {name}: {reason}")
                known[name] = reason

    def end(self, part: Part, current: state.State) -> None:
        """A stage's end: its entry in the summary, the best model so far, the pictures; on to the next."""
        now = self.progress
        entry = {
            "name": part.stage.name,
            "epochs": now.epochs,
            "steps": now.stage_step,
            "trainable_params": part.plan.trainable_params,
            "trainable_fraction": part.plan.trainable_fraction,
            **now.best_metrics,
            "seconds": round(now.seconds, 2),
        }
        now.done = [*now.done, entry]
        host = sharding.gather(state.whole(current["best"], current["frozen"]))
        if now.beats_best_model(self.job.parts[-1].stage):
            now.best_model = {"stage": part.index, **now.best_metrics}
            if self.chief:
                weights.save_best(self.folder / "best", self.job.card, part.image_size, host)
        self.write_summary()
        self.progress = now.next_stage()

    def write_summary(self, **more: Any) -> None:
        """Writes summary.json, and draws the pictures from the lines so far."""
        if self.chief:
            job = self.job
            fixed = {"model": job.card.spec.name, "class_names": list(job.source.class_names)}
            skipped = {split: len(found) for split, found in self.progress.bad.items()}
            found = {"stages": self.progress.done, **fixed, "skipped_images": skipped, "finished": False}
            write_json(self.folder / "summary.json", found | more)
            plots.draw(self.folder.records(), self.folder.folder)

    def close(self) -> None:
        """Finishes writing."""
        self.checkpoints.close()
        if self.log:
            self.log.close()
