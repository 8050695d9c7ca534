"""Measure how long the devices stand idle because the next batch is not there yet."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax


class Waiting:
    """The share of time in which steps wait for data.

    The loop runs ahead of the devices: time in which it waits for a batch while they still compute costs nothing. A
    thread therefore notes when each step has ended, and only the time after that counts. On a CPU, reading and
    computing share the cores, so that a step may take longer while it waits for nothing.
    """

    def __init__(self):
        self._steps: queue.Queue[jax.Array | None] = queue.Queue()
        self._given = self._ended = 0
        self._idle_since = time.perf_counter()
        self._thread = threading.Thread(target=self._watch, name="ends of steps", daemon=True)
        self._thread.start()
        self.restart()

    def restart(self) -> None:
        """Restart the measurement, as after a validation."""
        self._since, self._waited = time.perf_counter(), 0.0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Time the block that waits for the next batch."""
        begin = time.perf_counter()
        yield
        if self._ended == self._given:  # else a step still runs
            self._waited += max(0.0, time.perf_counter() - max(begin, self._idle_since))

    def stepped(self, loss: jax.Array) -> None:
        """Note a step that was started, by one of its results."""
        self._given += 1
        self._steps.put(loss)

    def read(self) -> float:
        """Return the share since the last reading, 0 to 1; restart the measurement."""
        share = self._waited / max(time.perf_counter() - self._since, 1e-9)
        self.restart()
        return min(share, 1.0)

    def close(self) -> None:
        """End the thread."""
        self._steps.put(None)
        self._thread.join()

    def _watch(self) -> None:
        while (loss := self._steps.get()) is not None:
            try:
                loss.block_until_ready()
            except Exception:  # a step that failed: the loop meets the same error
                return
            finally:
                self._idle_since = time.perf_counter()
                self._ended += 1
