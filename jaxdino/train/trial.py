"""Take the first steps of a stage, to measure their time and memory."""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdino.core import sharding
from jaxdino.core.host_memory import Peak
from jaxdino.train import data, precision, step
from jaxdino.train.memory import StepMemory, measure
from jaxdino.train.setup import Setup
from jaxdino.train.state import State
from jaxdino.train.task import Part

STEPS = 10
"""Timed steps of a stage."""
GROWING = 5
"""Steps, at most, to measure the memory of another batch size: each thread that meets a step keeps scratch memory."""


class Pace(NamedTuple):
    """What the timed steps of a stage took, in seconds.

    Attributes:
      compile: of the compilation. step: of one step with reading its batch. device: of one step alone.
      grown: on a CPU, bytes that these steps take beside what stays in memory, as measured; else None.
      process: on a CPU, the most bytes that the whole process held in these steps; None if that is not known.
    """

    compile: float
    step: float
    device: float
    grown: int | None = None
    process: int | None = None


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
        self._other: tuple[int, Any] = (0, None)
        begin = time.perf_counter()
        self.compiled = self._jitted(part).lower(current["moving"], current["frozen"], self.first).compile()
        self.seconds = time.perf_counter() - begin

    def _jitted(self, part: Part) -> Any:
        task, setup = self.setup.task, self.setup
        how = dict(remat=precision.remat(setup.config))
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
        """Time steps with and without reading; on a CPU, also measure the memory of all of them.

        The first step tells too little: the libraries' scratch memory grows until each of their threads has met each
        kind of operation, and reading holds batches in flight.
        """
        with Peak() as peak:
            self._steps(iter([self.first]))  # the first one also sets up the libraries
            device = self._steps(self.first for _ in range(STEPS))
            batches = self.setup.task.train_batches(self.part)
            try:
                next(batches)  # starts the threads
                whole = self._steps(self._placed(read) for read in batches)
            finally:
                batches.close()
        if jax.default_backend() != "cpu":
            return Pace(self.seconds, whole, device)
        return Pace(self.seconds, whole, device, peak.grown, peak.highest())

    def memory(self, batch_size: int) -> StepMemory | None:
        """Return the memory of a step with a number of images; None if the backend does not say."""
        return measure(self._compiled_for(batch_size), self.current, self._shapes(batch_size))

    def tried(self, batch_size: int, steps: int) -> int | None:
        """Take steps with a number of images, those of the first batch again; return as `Pace.process`."""
        compiled = self._compiled_for(batch_size)
        batch = {
            name: jax.device_put(np.resize(np.asarray(self.first[name]), one.shape), one.sharding)
            for name, one in self._shapes(batch_size).items()
        }
        with Peak() as peak:
            for _ in range(steps):
                self.current["moving"], measured = compiled(self.current["moving"], self.current["frozen"], batch)
                jax.block_until_ready(measured)
        return peak.highest()

    def _shapes(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes of a batch with a number of images."""
        given = self.part.stage.batch_size  # whole numbers: 49 * (1 / 49) is below 1
        return {
            name: jax.ShapeDtypeStruct((x.shape[0] * batch_size // given, *x.shape[1:]), x.dtype, sharding=x.sharding)
            for name, x in self.first.items()
        }

    def _compiled_for(self, batch_size: int) -> Any:
        """Return the step for a number of images; the last one is kept."""
        if batch_size == self.part.stage.batch_size:
            return self.compiled
        if batch_size != self._other[0]:
            stage = dataclasses.replace(self.part.stage, batch_size=batch_size)
            jitted = self._jitted(dataclasses.replace(self.part, stage=stage))
            lowered = jitted.lower(self.current["moving"], self.current["frozen"], self._shapes(batch_size))
            self._other = batch_size, lowered.compile()
        return self._other[1]
