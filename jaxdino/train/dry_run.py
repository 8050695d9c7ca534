"""A dry run: everything before the long work, ten steps of each stage, and estimates. Nothing is written."""

import dataclasses
import math
from typing import Any

from jaxdino.core.image_sizes import Size, words
from jaxdino.core.table import format_table
from jaxdino.train import largest_batch
from jaxdino.train.begin import begin_stage
from jaxdino.train.memory import StepMemory, size_words
from jaxdino.train.pace import duration
from jaxdino.train.results import NONE
from jaxdino.train.setup import Setup, prepare
from jaxdino.train.slicing import plan_lines
from jaxdino.train.task import Part
from jaxdino.train.trial import Pace, Trial
from jaxdino.train.workdir import say

MEMORY = ("stage", "weights", "gradients", "optimizer", "copies", "batch", "activations", "libraries", "peak")


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
        say("\n" + plan_lines(part))
        largest = part.alone(part.sizes.largest)
        trial = Trial(setup, largest, current)
        known = {largest.image_size: trial.timed()}
        for size in part.sizes.timed():
            if size not in known:
                known[size] = Trial(setup, part.alone(size), current).timed()
        paces.append(known)
        for size in sorted(known, key=math.prod):
            say(_pace_line(part, size, known[size]))
        if found := trial.memory(part.stage.batch_size):
            pace = known[largest.image_size]
            found = found.with_libraries(pace.grown)
            rows.append(_memory_row(part, found, pace))
            if memory:
                say(f"largest batch in {size_words(memory)}: {largest_batch.largest(trial, memory, found, pace)}")
    how = "from the compiled steps" if len(rows) > 1 else "not known: this backend does not analyse its programs"
    say(f"\nmemory of a device, {how}:")
    if len(rows) > 1:
        say(format_table(rows))
    say(f"\n{_time_line(setup, paces)}")
    say("nothing was written; without --dry-run the run begins")


def _memory_row(part: Part, found: StepMemory, pace: Pace) -> tuple[str, ...]:
    *parts, libraries = map(size_words, dataclasses.astuple(found))
    return (part.stage.name, *parts, NONE if pace.grown is None else libraries, size_words(found.total))


def _pace_line(part: Part, size: Size, pace: Pace) -> str:
    waiting = max(0.0, 1 - pace.device / pace.step)
    steps, of = part.steps_of(size), f" of {words(size)} pixels" if part.sizes.varied else ""
    return (
        f"steps: {steps:,.0f} of {part.stage.batch_size} images{of} ({part.max_epochs} epochs of "
        f"{part.steps_per_epoch}), {1000 * pace.step:,.0f} ms each, {part.stage.batch_size / pace.step:,.1f} images/s, "
        f"{waiting:.0%} waiting for data; compiled in {pace.compile:.0f} s"
    )


def _time_line(setup: Setup, paces: list[dict[Size, Pace]]) -> str:
    """Estimate the time of the run. A validation is a forward pass over its images, read as fast as in training."""
    images = len(setup.task.source.splits["val"]) if setup.task.monitors and "val" in setup.task.source.splits else 0
    steps, validations = 0.0, 0.0
    for part, known in zip(setup.parts, paces, strict=True):
        steps += sum(pace.compile + part.steps_of(size) * pace.step for size, pace in known.items())
        for place, (_, size) in enumerate(part.sizes.schedule):
            near = min(known, key=lambda one: abs(math.prod(one) - math.prod(size)))
            pace, share = known[near], math.prod(size) / math.prod(near)
            forward = pace.device * share / (1 + 2 * part.plan.trainable_fraction)
            once = max(forward, (pace.step - pace.device) * share) * images / part.stage.batch_size
            validations += -(-part.steps_at(place) // part.steps_per_epoch) * once
    early = any(part.stage.plateaus for part in setup.parts)
    return (
        f"time: {'at most' if early else 'about'} {duration(steps + validations)}, of which validation "
        f"{duration(validations)}{', less if stages end at a plateau' if early else ''}"
    )
