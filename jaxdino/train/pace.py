"""Measure how long the steps of a run take, and estimate how long the rest of the run lasts."""

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax

from jaxdino.train.task import Part


class Pace:
    """Time the steps and epoch ends of a run. The first step of a stage with a batch shape compiles: it is left out.

    Args:
      parts: the stages of the run.
    """

    def __init__(self, parts: Sequence[Part]):
        self._parts = parts
        self._compile = 0.0
        self._measured: Part | None = None  # the stage that the figures below belong to
        self._seconds, self._cost, self._ends = 0.0, 0.0, []

    def begin(self) -> None:
        """Start timing a stage."""
        self._mark, self._shapes, self._pixels = time.perf_counter(), set(), 0

    def stepped(self, part: Part, measured: Mapping[str, jax.Array], place: int = 0, shapes: Hashable = ()) -> bool:
        """Time a step. Waits for the first step of a stage with these shapes in this process, and returns True for it.

        Args:
          place: index of the image size in the stage's schedule. shapes: shapes of the batch.
        """
        first = shapes not in self._shapes
        if first:
            jax.block_until_ready(measured)
        now = time.perf_counter()
        spent, self._mark, self._pixels = now - self._mark, now, math.prod(part.at(place).image_size)
        if first:
            self._compile = spent
            self._shapes.add(shapes)
            return True
        if self._measured is not part:
            self._measured, self._seconds, self._cost, self._ends = part, 0.0, 0.0, []
        self._seconds, self._cost = self._seconds + spent, self._cost + cost(part, place)
        return False

    def ended_epoch(self) -> None:
        """Time the end of an epoch, validation and saving, unless it comes before the first step in this process."""
        now = time.perf_counter()
        if self._pixels:
            self._ends.append((now - self._mark) / self._pixels)
        self._mark = now

    def skip(self) -> None:
        """Do not time what has happened since the last step or epoch."""
        self._mark = time.perf_counter()

    def left(self, part: Part, stage_step: int) -> float | None:
        """Return the seconds until the last step of the last stage, or None before anything was timed.

        Later stages are estimated from this one by their number of images, pixels and trained parameters: a backward
        pass through the whole model costs twice a forward pass.
        """
        timed = self._measured
        if timed is None:
            return None
        step = self._seconds / self._cost
        ends = self._ends[1:] or self._ends  # the first one compiles
        end = sum(ends) / max(len(ends), 1)  # for each pixel of an image
        found = 0.0
        for one in self._parts[part.index :]:
            for place, (_, size) in enumerate(one.sizes.schedule):
                steps = one.steps_at(place, stage_step if one is part else 0)
                found += steps * step * cost(one, place) + -(-steps // one.steps_per_epoch) * end * math.prod(size)
            found += self._compile * len(one.sizes.trained()) if one is not part else 0.0
        return found

    def words(self, part: Part, stage_step: int) -> str:
        """Format the time left: "about 3 min left", or "at most ..." if a stage may end early; "" if unknown."""
        found = self.left(part, stage_step)
        if not found:
            return ""
        early = any(one.stage.plateaus for one in self._parts[part.index :])
        return f"{'at most' if early else 'about'} {duration(found)} left"


def cost(part: Part, place: int) -> float:
    """Return the relative cost of a step at an entry of the schedule of sizes; comparable between stages."""
    return part.stage.batch_size * part.sizes.pixels(place) * (1 + 2 * part.plan.trainable_fraction)


def duration(seconds: float) -> str:
    """Format seconds: "45 s", "3 min 20 s", "2 h 5 min"."""
    whole = max(1, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    names: Sequence[tuple[int, Any]] = ((hours, "h"), (minutes, "min"), (rest, "s"))
    shown = [f"{number} {unit}" for number, unit in names if number]
    return " ".join(shown[:1] if minutes >= 10 and not hours else shown[:2])
