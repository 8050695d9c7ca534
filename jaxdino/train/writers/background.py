"""Run a writer in a thread of its own: a slow or failing one neither delays nor ends the training."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdino.train.writers.writer import Writer

Line = tuple[Mapping[str, float], int, float]
"""Metrics of a step, the step, and the time in seconds since 1970."""
WAITING = 10_000
"""Lines that may wait for a writer; more are left out and counted."""
PATIENCE = 120.0
"""Seconds that the end of a run waits for a writer."""


class Background:
    """A writer in its thread. What it raises is said once, and counted.

    Attributes:
      failed: number of lines that were not written. done: number of lines that were.
    """

    def __init__(self, name: str, writer: Writer, say: Callable[[str], None]):
        self.name, self.failed, self.done = name, 0, 0
        self._writer, self._say = writer, say
        self._queue: queue.Queue[tuple[Callable, tuple[Any, ...]] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name=f"writer {name}", daemon=True)
        self._thread.start()

    def catch_up(self, lines: Sequence[Line]) -> None:
        """Write the lines of earlier starts soon, as far as the writer does not have them."""
        self._give(lambda: [self._guarded(self._writer.write, *line) for line in lines if self._lacks(line[1])])

    def write(self, values: Mapping[str, float], step: int, time: float) -> None:
        """Write the metrics of a step soon, unless the writer has them from an earlier start."""
        if self._lacks(step):
            self._give(self._writer.write, values, step, time)

    def _lacks(self, step: int) -> bool:
        return step > self._writer.reached

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Write the results soon."""
        self._give(self._writer.finish, summary, files)

    def close(self, finished: bool) -> None:
        """Wait for what is left, close the writer, and print how much was not written."""
        self._give(self._writer.close, finished)
        try:
            self._queue.put(None, timeout=PATIENCE)
        except queue.Full:
            pass
        else:
            self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._say(
                f"WARNING: writer {self.name} did not end within {PATIENCE:.0f} s: its last lines are missing there"
            )
        if self.failed:
            self._say(
                f"writer {self.name}: {self.failed} of {self.failed + self.done} writes failed; metrics.jsonl has all"
            )

    def _give(self, work: Callable, *args: Any) -> None:
        try:
            self._queue.put_nowait((work, args))
        except queue.Full:
            self._fail(f"{WAITING} lines are waiting for it")

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            work, args = item
            self._guarded(work, *args)

    def _guarded(self, work: Callable, *args: Any) -> None:
        try:
            work(*args)
        except Exception as err:  # whatever a library raises: the training does not depend on it
            self._fail(f"{type(err).__name__}: {err}")
        else:
            self.done += 1

    def _fail(self, why: str) -> None:
        self.failed += 1
        if self.failed == 1:
            shown = " ".join(why.split())[:300]
            self._say(
                f"WARNING: writer {self.name} failed ({shown}); the training goes on, metrics.jsonl has every line"
            )
