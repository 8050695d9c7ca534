"""Take the first steps of a stage, to measure their time and memory."""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from jaxdino.core import sharding
from jaxdino.core.host_memory import Peak
from jaxdino.train import data, step
from jaxdino.train.memory import StepMemory, measure, size_words
from jaxdino.train.setup import Setup
from jaxdino.train.state import State
from jaxdino.train.task import Part

STEPS = 10
"""Timed steps of a stage."""
TRIES = 4
"""Compilations, at most, to find the largest batch."""


class Pace(NamedTuple):
    """What the timed steps of a stage took, in seconds.

    Attributes:
      compile: of the compilation. step: of one step with reading its batch. device: of one step alone.
      grown: bytes that a step alone takes beside what stays in memory, as measured; None if that is not known.
    """

    compile: float
    step: float
    device: float
    grown: int | None


class Trial:
    """The first steps of a stage, compiled. They change the weights in `current`.

    Attributes:
      compiled: the step. seconds: that its compilation took.
    """

    def __init__(self, setup: Setup, part: Part, current: State):
        self.setup, self.part, self.current = setup, part, current
        batches = setup.task.train_batches(part)
        try:
            self.first = self._placed(next(batches))
        finally:
            batches.close()
        begin = time.perf_counter()
        self.compiled = self._jitted(part).lower(current["moving"], current["frozen"], self.first).compile()
        self.seconds = time.perf_counter() - begin

    def _jitted(self, part: Part) -> Any:
        task, setup = self.setup.task, self.setup
        how = dict(remat=setup.config.model.remat)
        return step.compile_train_step(
            task.train_step(part, self.current), self.current, setup.mesh, setup.rules, **how
        )

    def _placed(self, read: dict[str, Any]) -> dict[str, jax.Array]:
        return sharding.put_batch(data.sent(read, self.setup.task.arrays), self.setup.mesh)

    def _steps(self, batches: Iterator[dict[str, jax.Array]]) -> float:
        """Take a step for each batch, at most `STEPS`; return the seconds of one."""
        begin, measured, taken = time.perf_counter(), {}, 0
        for batch in itertools.islice(batches, STEPS):
            taken += 1
            self.current["moving"], measured = self.compiled(self.current["moving"], self.current["frozen"], batch)
        jax.block_until_ready(measured)
        return (time.perf_counter() - begin) / taken

    def timed(self) -> Pace:
        """Time steps with and without reading."""
        with Peak() as peak:
            self._steps(iter([self.first]))  # the first one also sets up the libraries
        device = self._steps(self.first for _ in range(STEPS))
        batches = self.setup.task.train_batches(self.part)
        try:
            next(batches)  # starts the threads
            return Pace(self.seconds, self._steps(self._placed(read) for read in batches), device, peak.grown)
        finally:
            batches.close()

    def memory(self, batch_size: int) -> StepMemory | None:
        """Return the memory of a step with a number of images; None if the backend does not say."""
        compiled, batch = self.compiled, self.first
        if batch_size != self.part.stage.batch_size:
            given = self.part.stage.batch_size  # whole numbers: 49 * (1 / 49) is below 1
            batch = {
                name: jax.ShapeDtypeStruct(
                    (x.shape[0] * batch_size // given, *x.shape[1:]), x.dtype, sharding=x.sharding
                )
                for name, x in self.first.items()
            }
            stage = dataclasses.replace(self.part.stage, batch_size=batch_size)
            jitted = self._jitted(dataclasses.replace(self.part, stage=stage))
            compiled = jitted.lower(self.current["moving"], self.current["frozen"], batch).compile()
        return measure(compiled, self.current, batch)

    def largest(self, memory: int, known: StepMemory) -> str:
        """Return the largest batch size whose step needs at most this memory, in words.

        Memory grows linearly with the batch: sizes are compiled on the line through the last two, until one fits.
        """
        given = self.part.stage.batch_size
        unit = sharding.batch_shards(self.setup.mesh) * self.part.stage.accumulate
        most = len(self.setup.task.source.split("train")) // unit * unit
        points, size = {given: known.total}, min(2 * given, most)
        for _ in range(TRIES):
            if size not in points:
                found = self.memory(size)
                points[size] = found.total if found else 0
            (a, low), (b, high) = sorted(points.items())[-2:] if len(points) > 1 else [*points.items()] * 2
            slope = (high - low) / (b - a) if b > a else 0
            after = most if slope <= 0 else int((memory - low) / slope + a) // unit * unit
            after = min(max(after, unit), most)
            if after in points:
                break
            size = after
        fits = [size for size, total in points.items() if total <= memory]
        if not fits:
            need = size_words(points[min(points)])
            return f"none; {min(points)} images need {need}: raise optimizer.accumulate, or lower data.image_size"
        best = max(fits)
        why = ", all of the training images" if best == most else ""
        return f"{best} ({size_words(points[best])}{why})"
