"""Find the largest batch of a stage that fits a given memory."""

import jax

from jaxdino.core import sharding
from jaxdino.core.host_memory import available
from jaxdino.train.memory import StepMemory, size_words
from jaxdino.train.trial import GROWING, Pace, Trial

TRIES = 4
"""Compilations, at most, to find the largest batch."""
LONGEST = 60.0
"""Seconds, at most, of the steps that are taken to measure the memory of a size."""


class Need:
    """The memory of a step with other numbers of images.

    Args:
      found: the memory of the stage's own batch. pace: as measured with it.
    """

    def __init__(self, trial: Trial, found: StepMemory, pace: Pace):
        self.trial, self.found, self.pace, self.given = trial, found, pace, trial.part.stage.batch_size
        self._library = self.given, found.libraries

    def estimated(self, size: int) -> int:
        """Return the bytes for a number of images: the step is compiled, not taken. 0 if the backend does not say.

        What libraries take is that of the last measured step, in proportion to the images.
        """
        if size == self.given:
            return self.found.total
        found = self.trial.memory(size)
        of, libraries = self._library
        return found.total + libraries * size // of if found else 0

    def measured(self, size: int, estimated: int) -> int | None:
        """Return the bytes as steps take them; None where that is not known, takes too long or more than there is.

        It is compared with the process as it was in the steps with the own batch: a process may keep freed memory, so
        that later steps make it grow by less than they need.
        """
        free, least = available(), self.trial.memory(size)
        if self.pace.process is None or free is None or least is None or jax.process_count() > 1:
            return None
        steps = min(GROWING, int(LONGEST * self.given / (self.pace.device * size)))
        if estimated - self.found.total > free or not steps:
            return None
        highest = self.trial.tried(size, steps)
        if highest is None:
            return None
        taken = max(least.total, highest - self.pace.process + self.found.total)
        self._library = size, taken - least.total
        return taken


def largest(trial: Trial, memory: int, found: StepMemory, pace: Pace) -> str:
    """Return the largest batch size whose step needs at most this memory, in words.

    Memory grows linearly with the batch: sizes are compiled on the line through the last two, until one fits. On a CPU
    steps of that size are taken, as long as they are short, and what they took counts.

    Args:
      memory: bytes on each device. found, pace: as `Need`.
    """
    given, need = trial.part.stage.batch_size, Need(trial, found, pace)
    unit = sharding.batch_shards(trial.setup.mesh) * trial.part.stage.accumulate
    most = len(trial.setup.task.source.split("train")) // unit * unit
    points, size, sure = {given: found.total}, min(2 * given, most), {given}
    for _ in range(TRIES):
        if size not in points:
            points[size] = need.estimated(size)
        if points[size] <= memory and size not in sure and (seen := need.measured(size, points[size])):
            points[size], sure = seen, sure | {size}
        after = min(max(_on_line(points, memory, most) // unit * unit, unit), most)
        if after in points:
            break
        size = after
    fits = [size for size, total in points.items() if total <= memory]
    if not fits:
        wants = size_words(points[min(points)])
        return f"none; {min(points)} images need {wants}: raise optimizer.accumulate, or lower data.image_size"
    best = max(fits)
    why = ", all of the training images" if best == most else ""
    how = "" if pace.process is None else ", measured" if best in sure else ", estimated"
    return f"{best} ({size_words(points[best])}{how}{why})"


def _on_line(points: dict[int, int], memory: int, most: int) -> int:
    """Return the number of images that need this memory, on the line through the two largest known ones."""
    (a, low), (b, high) = sorted(points.items())[-2:] if len(points) > 1 else [*points.items()] * 2
    slope = (high - low) / (b - a) if b > a else 0
    return most if slope <= 0 else int((memory - low) / slope + a)
