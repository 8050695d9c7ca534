"""Do work on what was served in a thread of its own, with a bounded queue: watching never slows an answer."""

import queue
import threading
from collections.abc import Callable
from typing import Any

MOST = 20_000


class Background:
    """Call `work` with each thing that is put, in one thread.

    Args:
      work: an exception of it is given to `failed`, and the next thing is taken.
      idle: called when nothing was put for `seconds`, and at the end. lost: called for each thing without room.
    """

    def __init__(
        self,
        work: Callable[[Any], None],
        *,
        idle: Callable[[], None] = lambda: None,
        seconds: float = 5.0,
        lost: Callable[[], None] = lambda: None,
        failed: Callable[[Exception], None] = lambda err: None,
        most: int = MOST,
    ):
        self.work, self.idle, self.seconds, self.lost, self.failed = work, idle, seconds, lost, failed
        self._queue: queue.Queue[Any] = queue.Queue(most)
        self._thread = threading.Thread(target=self._run, name="watching", daemon=True)
        self._thread.start()

    def put(self, thing: Any) -> None:
        """Add a thing; it is dropped if there is no room. Returns at once."""
        try:
            self._queue.put_nowait(thing)
        except queue.Full:
            self.lost()

    def close(self) -> None:
        """Work on what was put, then end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                thing = self._queue.get(timeout=self.seconds)
            except queue.Empty:
                self._safely(self.idle)
                continue
            if thing is None:
                self._safely(self.idle)
                return
            self._safely(lambda thing=thing: self.work(thing))

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as err:  # a full disk, a damaged reference: the server goes on
            self.failed(err)
