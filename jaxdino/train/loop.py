"""The run: stage after stage, validated every epoch, saved as it goes, resumed where it stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core import sharding
from jaxdino.strategy import format_plan
from jaxdino.train import state, step
from jaxdino.train.job import prepare
from jaxdino.train.progress import Stop, results_table
from jaxdino.train.session import Session
from jaxdino.train.task import Part
from jaxdino.train.watch import Lost, Stopped, Watch
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
            if session.saved_step is None:
                session.progress.baseline = job.task.baseline(session)
            current = None
            for part in job.parts[session.progress.stage :]:
                current = run_stage(session, part, session.begin(part, current))
                session.end(part, current)
            finish(session)
        except Stopped:
            where = "the beginning" if session.saved_step is None else f"step {session.saved_step}"
            say(
                f"stopped by SIGTERM after step {session.progress.step}; the same command goes on from {where}: "
                f"--workdir={folder.folder}"
            )
        except Lost as err:
            session.write_summary(lost=str(err))
            raise
        finally:
            session.close()
    say(f"run folder: {folder.folder}")
    return folder.summary()


def finish(session: Session) -> None:
    """Measures the best model, as it was saved, and prints the table."""
    measured, line = session.job.task.finish(session)
    session.checkpoints.wait()
    session.write_summary(finished=True, **measured)
    say("\n" + results_table(session.progress.done, session.job.task.shown))
    say(line)


def run_stage(session: Session, part: Part, current: state.State) -> state.State:
    """Trains one stage to its plateau or its limit, from wherever its state stands.

    Returns:
      The state at the stage's end; its "best" goes on.

    Raises:
      Stopped: after SIGTERM, with everything saved.
      UserError: if the loss is not finite, or the task sees that the run is lost.
    """
    job, now = session.job, session.progress
    train_step = step.compile_train_step(job.task.train_step(part, current), current, job.mesh, job.rules)
    measure = job.task.measure(session, part)
    batches = job.task.train_batches(part)
    if now.batches:
        batches.restore(now.batches)
    say("\n" + format_plan(part.plan))
    with Watch(session, part, current, batches) as watch:
        while True:
            if watch.due_validation():
                found = measure(current)
                watch.validated(found)
                if now.judge(part.stage, found, session.healthy):
                    current["best"] = state.copy(state.evaluated(current["moving"]))
                watch.end_epoch(found)
            if watch.finished() or now.at_plateau(part.stage):
                return current
            read = next(batches)
            now.unread += int(np.sum(read["weight"] == 0))
            batch = sharding.put_batch({name: read[name] for name in job.task.arrays if name in read}, job.mesh)
            current["moving"], measured = train_step(current["moving"], current["frozen"], batch)
            watch.stepped(measured)
