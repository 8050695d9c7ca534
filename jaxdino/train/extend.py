"""A run that is to last longer than it was started for: the stage that it has reached, and later ones, may grow."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdino import optim
from jaxdino.core.errors import UserError
from jaxdino.stage import Stage, stages
from jaxdino.train.checkpoint import Checkpoints
from jaxdino.train.progress import Progress
from jaxdino.train.task import Part
from jaxdino.train.workdir import LENGTH, Workdir, say


def check(folder: Workdir) -> None:
    """Check that what `folder.lengthened` names can still be changed.

    Raises:
      UserError: for a stage that is over, or stopped early at a plateau; for one in progress that is to be shorter.
    """
    before = trained(folder.before)
    progress = reached(folder)
    if progress is None and folder.finished:
        raise refusal(folder, "the run is finished, and no checkpoint is left to go on from")
    if progress is None:
        return
    stage = before[progress.stage]
    names = [given["name"] for given in folder.before["stages"]]
    for field in folder.lengthened:
        number = int(re.fullmatch(LENGTH, field.path)[1])
        if number < names.index(stage.name):
            raise refusal(folder, f"{field}: stage {names[number]!r} is over")
        if number > names.index(stage.name):
            continue
        there, now = (math.inf if value is None else value for value in (field.there, field.now))
        if now < there:
            raise refusal(folder, f"{field}: stage {stage.name!r} has begun, and can only become longer")
        if progress.at_plateau(stage):
            why = f"stopped early at epoch {progress.epochs}: more epochs would not train it on"
            raise refusal(folder, f"{field}: stage {stage.name!r} {why}")


def trained(config: Mapping[str, Any]) -> list[Stage]:
    """The stages of a config that have a length."""
    return [stage for stage in stages(config) if stage.length(1) > 0]


def reached(folder: Workdir) -> Progress | None:
    """Where the newest checkpoint of a run stands; None if there is none."""
    if not (folder / "checkpoints").is_dir():
        return None
    checkpoints = Checkpoints(folder / "checkpoints", warn=say)
    try:
        saved = checkpoints.latest()
    finally:
        checkpoints.close()
    return Progress.of(saved[1]) if saved else None


def refusal(folder: Workdir, why: str) -> UserError:
    """The error for a change that comes too late, with the way out."""
    return UserError(f"--workdir={folder.folder} cannot go on with other settings. {why}.\n  {folder.way_on()}")


def words(folder: Workdir, parts: Sequence[Part], now: Progress) -> str:
    """Say what a longer stage that is in progress means for its schedule; "" where none is."""
    part, before = parts[now.stage], {stage.name: stage for stage in trained(folder.before)}
    old = before.get(part.stage.name)
    total = old.length(part.steps_per_epoch) if old else part.total_steps
    if not now.stage_step or total == part.total_steps:
        return ""
    rates = [
        float(optim.schedule(part.stage.schedule, steps, part.steps_per_epoch)(now.stage_step))
        for steps in (total, part.total_steps)
    ]
    return (
        f"stage {part.stage.name!r} takes {part.total_steps} steps in place of {total}, and its schedules are those of "
        f"that length from here on: after step {now.stage_step} its learning rate goes from {rates[0]:.0%} of its peak "
        f"to {rates[1]:.0%}. A run that had this length from the start would differ"
    )
