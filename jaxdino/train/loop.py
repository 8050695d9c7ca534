"""The run: stage after stage, validated every epoch, saved as it goes, resumed where it stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat
from jaxdino.data.checks import check_read
from jaxdino.strategy import format_plan
from jaxdino.train import metrics, state, step, weights
from jaxdino.train.job import Part, prepare
from jaxdino.train.progress import Stop, results_table
from jaxdino.train.session import Session
from jaxdino.train.watch import Stopped, Watch
from jaxdino.train.workdir import Workdir, new_folder, say


def run(
    config: Any,
    workdir: str | Path | None = None,
    on_step: Callable[[int], None] | None = None,
    name: str = "run",
) -> dict[str, Any]:
    """Trains all stages of a config and measures the best model on the test split.

    The same config and workdir again go on where an earlier run stopped, and leave a finished one alone.

    Args:
      config: see `configs/common.py`.
      workdir: the run's folder; by default a new one under runs/.
      on_step: called with the number of steps so far, after each step; for tests.
      name: of the strategy; part of a new folder's name.

    Returns:
      What summary.json holds.

    Raises:
      UserError: for anything that cannot work, before long work.
    """
    folder = Workdir(Path(workdir) if workdir else new_folder(f"{name}_{config.model.name}"), config)
    if folder.finished:
        say(f"the run in {folder.folder} is finished; nothing to do")
        return folder.summary()
    job = prepare(config, say)
    folder.open()
    say(f"run folder: {folder.folder}")
    with Stop() as stop:
        session = Session(job, folder, stop, on_step)
        try:
            current = None
            for part in job.parts[session.progress.stage :]:
                current = run_stage(session, part, session.begin(part, current))
                session.end(part, current)
            finish(session)
        except Stopped:
            say(
                f"stopped by SIGTERM after step {session.progress.step}, all saved; the same command goes on: "
                f"--workdir={folder.folder}"
            )
        finally:
            session.close()
    say(f"run folder: {folder.folder}")
    return folder.summary()


def finish(session: Session) -> None:
    """Measures the best model, as it was saved, on the test split, and prints the table."""
    job, measured = session.job, {}
    if "test" in job.source.splits:
        part = job.parts[session.progress.best_model["stage"]]
        flat = weights.load_best(session.folder / "best")
        eval_step = step.compile_eval_step(part.skeleton, job.normalize, job.mesh)
        measured = evaluate(session, part, "test", eval_step, sharding.put(flat, session.where(flat)))
    session.checkpoints.wait()
    session.write_summary(finished=True, **measured)
    say("\n" + results_table(session.progress.done))
    if measured:
        say("test: " + ", ".join(f"{name[5:]} {value:.4f}" for name, value in measured.items()))
    else:
        say("the data has no test split: nothing was measured on one")


def run_stage(session: Session, part: Part, current: state.State) -> state.State:
    """Trains one stage to its plateau or its limit, from wherever its state stands.

    Returns:
      The state at the stage's end; its "best" goes on.

    Raises:
      Stopped: after SIGTERM, with everything saved.
      UserError: if the loss is not finite.
    """
    job, now = session.job, session.progress
    train_step = step.compile_train_step(job.train_step(part), current, job.mesh, job.rules)
    eval_step = step.compile_eval_step(part.skeleton, job.normalize, job.mesh)
    batches = job.train_batches(part)
    if now.batches:
        batches.restore(now.batches)
    say("\n" + format_plan(part.plan))
    with Watch(session, part, current, batches) as watch:
        while True:
            if watch.due_validation():
                weights_now = state.evaluated(current["moving"])
                flat = state.whole(weights_now, current["frozen"])
                found = evaluate(session, part, "val", eval_step, flat)
                if now.judge(part.stage, found):
                    current["best"] = state.copy(weights_now)
                watch.validated(found)
            if watch.finished() or now.at_plateau(part.stage):
                return current
            read = next(batches)
            now.unread += int(np.sum(read["weight"] == 0))
            batch = sharding.put_batch(trained_on(read), job.mesh)
            current["moving"], measured = train_step(current["moving"], current["frozen"], batch)
            watch.stepped(measured)


def evaluate(session: Session, part: Part, split: str, eval_step: Callable, flat: Flat) -> dict[str, float]:
    """The metrics of a whole split, over all devices and processes: {"val_accuracy": ...}.

    Raises:
      Stopped: if the run is told to stop meanwhile.
      UserError: if no image of the split can be read, or the model answers with nan or infinity.
    """
    batches = session.job.eval_batches(part, split)
    logits, labels = [], []
    for batch in batches:
        if session.stop.asked():
            raise Stopped
        out = jax.device_get(eval_step(flat, sharding.put_batch(trained_on(batch), session.job.mesh)))
        counted = out["weight"] > 0
        logits.append(out["logits"][counted])
        labels.append(out["label"][counted])
    session.note_bad(split, batches.bad)
    check_read(batches.bad, len(batches.bad), len(batches.bad.split), say)
    if not all(np.isfinite(each).all() for each in logits):
        raise UserError(
            f"the model of stage {part.stage.name!r} answers the {split} images with nan or infinity: lower its "
            "learning rates, check the weights it started from for nan, and start in a new --workdir"
        )
    found = metrics.classification(np.concatenate(logits), np.concatenate(labels))
    return {f"{split}_{name}": value for name, value in found.items()}


def trained_on(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The part of a batch that travels to the devices."""
    return {name: batch[name] for name in ("image", "label", "weight")}
