"""Extend a run beyond its original length: the current stage and later ones may be given more epochs or steps."""

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
    """Check that the stages in `folder.lengthened` can still change their length.

    Raises:
      UserError: for a stage that is over or stopped early at a plateau, or a shorter length for the current stage.
    """
    before = trained(folder.before)
    progress = reached(folder)
    if progress is None and folder.finished:
        raise refusal(folder, "the run is finished, and no checkpoint is left to continue from")
    if progress is None:
        return
    stage = before[progress.stage]
    names = [given["name"] for given in folder.before["stages"]]
    own = [one for one in folder.lengthened if one.path.startswith(f"stages[{names.index(stage.name)}].")]
    if len(own) == 2 and any(None in (one.there, one.now) for one in own):
        why = "its length is in epochs or in steps, as it began: change that number alone"
        raise refusal(folder, f"stage {stage.name!r} has begun, and {why}")
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
            why = f"stopped early at epoch {progress.epochs}: more epochs would have no effect"
            raise refusal(folder, f"{field}: stage {stage.name!r} {why}")


def trained(config: Mapping[str, Any]) -> list[Stage]:
    """Return the stages of a config that have a length."""
    return [stage for stage in stages(config) if stage.length(1) > 0]


def reached(folder: Workdir) -> Progress | None:
    """Return the progress in the newest checkpoint of a run, or None if there is no checkpoint."""
    if not (folder / "checkpoints").is_dir():
        return None
    checkpoints = Checkpoints(folder / "checkpoints", warn=say)
    try:
        saved = checkpoints.latest()
    finally:
        checkpoints.close()
    return Progress.of(saved[1]) if saved else None


def refusal(folder: Workdir, why: str) -> UserError:
    """Make the error for a change that comes too late, with a way to continue."""
    return UserError(f"--workdir={folder.folder} cannot be resumed with other settings. {why}.\n  {folder.way_on()}")


def words(folder: Workdir, parts: Sequence[Part], now: Progress) -> str:
    """Describe how a new length changes the schedule of the current stage; "" if the length is the same."""
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
        f"stage {part.stage.name!r} takes {part.total_steps} steps instead of {total}, and from here on its schedules "
        f"follow that length: after step {now.stage_step} its learning rate goes from {rates[0]:.0%} of its peak "
        f"to {rates[1]:.0%}. A run that had this length from the start would differ"
    )
