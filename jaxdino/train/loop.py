"""The training loop: run all stages, validate after each epoch, save checkpoints, and resume a stopped run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core import processes, sharding
from jaxdino.core.table import format_table
from jaxdino.train import augmented, data, disk, extend, pixels, state
from jaxdino.train.data_record import DataRecord
from jaxdino.train.decoding import choose_decoder
from jaxdino.train.not_finite.check import Guard
from jaxdino.train.results import results_rows
from jaxdino.train.session import Session
from jaxdino.train.setup import prepare
from jaxdino.train.slicing import keep_slices, plan_lines
from jaxdino.train.stop import Stop, Stopped
from jaxdino.train.task import Part
from jaxdino.train.validation import Validation
from jaxdino.train.watch import Lost, Watch
from jaxdino.train.workdir import Workdir, new_folder, say


def run(
    config: Any,
    workdir: str | Path | None = None,
    on_step: Callable[[int], None] | None = None,
    name: str = "run",
) -> dict[str, Any]:
    """Train all stages of a config and evaluate the best model on the test split.

    With the config and workdir of an earlier run, resume that run; if it is finished, print its results.

    Args:
      config: see `configs/common.py`.
      workdir: the run's folder; by default a new one under runs/.
      on_step: called with the number of steps so far, after each step; for tests.
      name: name of the strategy; part of a new folder's name.

    Returns:
      The contents of summary.json.

    Raises:
      UserError: for invalid settings, data or weights; raised before training starts where possible.
    """
    stop = Stop(config.get("time_limit"))
    place = workdir or new_folder(f"{name}_{config.model.name}")
    place = Path(processes.exchange("the run folder", str(place))[0])
    choose_decoder(config, place, say)
    keep_slices(config, place)
    folder = Workdir(place, config)
    folder.agree()
    if folder.finished and not folder.lengthened:
        return _again(folder)
    try:
        with disk.writable(folder.folder):
            return _run(config, folder, stop, on_step)
    finally:
        folder.lock.release()


def _run(config: Any, folder: Workdir, stop: Stop, on_step: Callable[[int], None] | None) -> dict[str, Any]:
    if folder.before:
        folder.hold()
    if folder.finished and not folder.lengthened:  # by the process that had the lock until now
        return _again(folder)
    if folder.lengthened:
        extend.check(folder)
    record = DataRecord(folder, data.config_of(config), say)
    setup = prepare(pixels.resumed(config, folder), say, record.check)
    record.check_model(setup.task.card, config.model.weights)
    folder.open()
    pixels.keep(folder, setup.task.card.spec.preprocess, config.data.get("normalization"))
    record.keep()
    say(f"run folder: {folder.folder}")
    with stop:
        session = Session(setup, folder, stop, on_step)
        session.other_data = bool(record.accepted)
        try:
            if longer := folder.lengthened and extend.words(folder, setup.parts, session.progress):
                say(longer)
            if session.saved_step is None:
                augmented.draw(session)
                session.progress.baseline = setup.task.baseline(session)
            current = None
            for part in setup.parts[session.progress.stage :]:
                begun = session.begin(part, current)
                if session.saved_step is None and not part.index:
                    session.keep_stage_model(part, 0, "start", begun)
                current = run_stage(session, part, begun)
                session.end(part, current)
            finish(session)
        except Stopped:
            leave(session)
        except Lost as err:
            session.write_summary(lost=str(err))
            raise
        finally:
            session.close()
    say(f"run folder: {folder.folder}")
    return folder.summary()


def _again(folder: Workdir) -> dict[str, Any]:
    """Print the results of a finished run, and return them."""
    found = folder.summary()
    say("\n".join([*found.get("result", ()), f"the run in {folder.folder} is finished; {folder.advice()}"]))
    return found


def finish(session: Session) -> None:
    """Evaluate the saved best model and print the results table."""
    task, progress = session.setup.task, session.progress
    measured, lines = task.finish(session)
    session.checkpoints.wait()
    watched = (part.stage.monitor for part in session.setup.parts)
    columns = list(dict.fromkeys([*task.columns, *filter(None, watched)]))
    columns = [name for name in columns if any(name in entry for entry in progress.done)]
    table = results_rows(progress.done, columns, task.references(session), session.delivered)
    result = [*format_table(table).splitlines(), *lines]
    session.write_summary(finished=True, **measured, result=result, table=table)
    say("\n" + "\n".join(result))


def leave(session: Session) -> None:
    """Print how to resume a stopped run."""
    reason, step, folder = session.stop.reason or "in another process", session.progress.step, session.folder.folder
    where = "the beginning" if session.saved_step is None else f"step {session.saved_step}"
    session.write_summary(draw=False, stopped={"why": reason, "step": step})
    again = " with a new time limit" if "limit" in reason else ""
    say(f"stopped {reason} after step {step}; the same command resumes from {where}{again}: --workdir={folder}")


def run_stage(session: Session, part: Part, current: state.State) -> state.State:
    """Train one stage, from its current state to its plateau or its limit.

    Returns:
      The state at the stage's end; the next stage starts from it.

    Raises:
      Stopped: when the run was asked to stop; everything is saved.
      UserError: if the loss is not finite (with config.debug.nan, any value of a step), or the task reports a collapse.
    """
    setup, now = session.setup, session.progress
    guard, train_step = Guard(session, part, current), session.ahead.step(part, current)
    validation = Validation(session, part)
    batches = setup.task.train_batches(part)
    if now.batches:
        size = {"records": batches.state()["records"]} if session.other_data else {}
        batches.restore(now.batches | size)
    say("\n" + plan_lines(part))
    with Watch(session, part, current, batches) as watch:
        if now.stage_step == 0:
            unknown = part.stage.monitor and now.best is None
            watch.start(setup.task.given(session, part, lambda: validation.measure(current)) if unknown else {})
        while True:
            if watch.due_validation():
                found = validation.measure(current)
                watch.validated(found)
                if now.judge(part.stage, found, session.healthy):
                    current["best"] = state.copy(state.evaluated(current["moving"]))
                watch.end_epoch(found)
            if watch.finished() or now.at_plateau(part.stage):
                watch.stopped_early()
                return current
            if now.stage_step == now.validated and validation.begin_epoch(current):
                watch.skip()
            with watch.waiting.reading():
                read = next(batches)
            now.unread += int(np.sum(read["weight"] == 0))
            batch = sharding.put_batch(data.sent(read, setup.task.arrays), setup.mesh)
            current["moving"], measured = train_step(current["moving"], current["frozen"], batch)
            session.ahead.begin(part, batch)
            guard.check(read, measured)
            watch.stepped(measured, tuple(one.shape for one in batch.values()))
