"""A dry run: everything before the long work, ten steps of each stage, and estimates. Nothing is written."""

import dataclasses
from typing import Any

from jaxdino.core.table import format_table
from jaxdino.strategy import format_plan
from jaxdino.train.begin import begin_stage
from jaxdino.train.memory import StepMemory, size_words
from jaxdino.train.pace import cost, duration, pixels
from jaxdino.train.results import NONE
from jaxdino.train.setup import Setup, prepare
from jaxdino.train.task import Part
from jaxdino.train.trial import Pace, Trial
from jaxdino.train.workdir import say

MEMORY = ("stage", "weights", "gradients", "optimizer", "copies", "batch", "activations", "total", "measured")


def dry_run(config: Any, memory: int | None = None) -> None:
    """Print the data, the plan of each stage, its memory, its time, and the largest batch that fits.

    Args:
      memory: bytes on each device for which the largest batch is searched; None does not search.

    Raises:
      UserError: as a run would before it begins.
    """
    setup = prepare(config, say)
    current, paces, rows = None, [], [MEMORY]
    for part in setup.parts:
        current = begin_stage(setup, part, current)
        say("\n" + format_plan(part.plan))
        trial = Trial(setup, part, current)
        paces.append(trial.timed())
        say(_pace_line(setup, part, paces[-1]))
        if found := trial.memory(part.stage.batch_size):
            rows.append(_memory_row(part, found, paces[-1]))
            if memory:
                say(f"largest batch in {size_words(memory)}: {trial.largest(memory, found)}")
    how = "from the compiled steps" if len(rows) > 1 else "not known: this backend does not analyse its programs"
    say(f"\nmemory of a device, {how}:")
    if len(rows) > 1:
        say(format_table(rows))
    say(f"\n{_time_line(setup, paces)}")
    say("nothing was written; without --dry-run the run begins")


def _memory_row(part: Part, found: StepMemory, pace: Pace) -> tuple[str, ...]:
    measured = NONE if pace.grown is None else size_words(found.held + pace.grown)
    return (part.stage.name, *map(size_words, (*dataclasses.astuple(found), found.total)), measured)


def _pace_line(setup: Setup, part: Part, pace: Pace) -> str:
    waiting = max(0.0, 1 - pace.device / pace.step)
    return (
        f"steps: {part.total_steps:,} of {part.stage.batch_size} images ({part.max_epochs} epochs of "
        f"{part.steps_per_epoch}), {1000 * pace.step:,.0f} ms each, {part.stage.batch_size / pace.step:,.1f} images/s, "
        f"{waiting:.0%} waiting for data; compiled in {pace.compile:.0f} s"
    )


def _time_line(setup: Setup, paces: list[Pace]) -> str:
    """Estimate the time of the run. A validation is a forward pass over its images, read as fast as in training."""
    images = len(setup.task.source.splits["val"]) if setup.task.monitors and "val" in setup.task.source.splits else 0
    steps, validations = 0.0, 0.0
    for part, pace in zip(setup.parts, paces, strict=True):
        forward = pace.device * pixels(part) * part.stage.batch_size / cost(part)
        once = max(forward, pace.step - pace.device) * images / part.stage.batch_size
        steps += pace.compile + part.total_steps * pace.step
        validations += part.max_epochs * once
    early = any(part.stage.plateaus for part in setup.parts)
    return (
        f"time: {'at most' if early else 'about'} {duration(steps + validations)}, of which validation "
        f"{duration(validations)}{', less if stages end at a plateau' if early else ''}"
    )
