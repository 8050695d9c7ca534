"""Collect single images into batches: a bounded queue, a thread that computes, a bound on the waiting time."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

KEPT = 0.9
"""Share of the moving average of a batch's seconds that a new measurement leaves."""


class Busy(Exception):
    """There is no room for more images now."""


class Job(NamedTuple):
    """An image that waits, and where its result goes."""

    item: Any
    future: asyncio.Future
    since: float


def buckets(most: int) -> list[int]:
    """Return the batch sizes that are compiled: the powers of two up to `most`."""
    return [1 << power for power in range(most.bit_length()) if 1 << power <= most]


def bucket(count: int) -> int:
    """Return the batch size that `count` images are padded to."""
    return 1 << (count - 1).bit_length()


class Batcher:
    """Give images to `compute` in batches, in order of arrival.

    A batch starts when it is full, when its first image has waited `max_wait` seconds, or when no other accepted image
    is still being decoded: a single client never waits. Of 20 images that wait, 16 are computed first if that takes
    less time for each than all of them padded to 32, as measured on the batches before: on a CPU, not on a GPU.

    Args:
      compute: items of a batch -> their results, in order; called in one thread, an exception fails the whole batch.
      loop: the event loop of the futures.
      max_queue: most images between `reserve` and `release`.
      seen: called after each batch with (images, seconds of computation, seconds that each waited).
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Any]], Sequence[Any]],
        loop: asyncio.AbstractEventLoop,
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        seen: Callable[[int, float, Sequence[float]], None] = lambda count, seconds, waits: None,
    ):
        self.compute, self.loop, self.seen = compute, loop, seen
        self.max_batch, self.max_wait, self.max_queue = max_batch, max_wait, max_queue
        self.held = 0  # images between `reserve` and `release`
        self._jobs: deque[Job] = deque()
        self._expected = 0  # reserved, and not in the queue yet
        self._seconds: dict[int, float] = {}  # of a batch, by its compiled size; a moving average
        self._ready = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def reserve(self, count: int) -> None:
        """Make room for images that are about to be decoded. Raises Busy without changing anything."""
        with self._ready:
            if self._closed or self.held + count > self.max_queue:
                raise Busy
            self.held += count
            self._expected += count

    def release(self, count: int) -> None:
        """Give room back, once the results have arrived or the images are given up."""
        with self._ready:
            self.held -= count

    def put(self, item: Any, future: asyncio.Future) -> None:
        """Add a decoded image; its result or its error arrives in `future`. Called from any thread."""
        with self._ready:
            self._expected -= 1
            self._jobs.append(Job(item, future, time.monotonic()))
            self._ready.notify()

    def skip(self, count: int = 1) -> None:
        """Say that reserved images will not come, because they could not be decoded."""
        with self._ready:
            self._expected -= count
            self._ready.notify()

    def close(self) -> None:
        """Compute what is queued, then end the thread."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            kept = [job for job in jobs if not job.future.done()]  # a request that was given up is not computed
            if not kept:
                continue
            start = time.monotonic()
            try:
                results = list(self.compute([job.item for job in kept]))
            except Exception as err:
                results = [err] * len(kept)
            else:
                self._measured(bucket(len(kept)), time.monotonic() - start)
            spent = time.monotonic() - start
            self.seen(len(kept), spent, [start - job.since for job in kept])
            self.loop.call_soon_threadsafe(_deliver, [job.future for job in kept], results)
            del jobs, kept, results

    def _next(self) -> list[Job]:
        """Return the images of the next batch, or [] after `close`."""
        with self._ready:
            while not self._jobs and not self._closed:
                self._ready.wait()
            while self._jobs and len(self._jobs) < self.max_batch and self._expected > 0 and not self._closed:
                left = self._jobs[0].since + self.max_wait - time.monotonic()
                if left <= 0 or not self._ready.wait(left):
                    break
            return [self._jobs.popleft() for _ in range(self._size(min(len(self._jobs), self.max_batch)))]

    def _measured(self, size: int, seconds: float) -> None:
        self._seconds[size] = seconds + KEPT * (self._seconds.get(size, seconds) - seconds)

    def _size(self, waiting: int) -> int:
        """Return how many of the waiting images are computed now: all, or the compiled size below their number."""
        padded, below = bucket(waiting), bucket(waiting + 1) // 2
        if waiting in (0, padded):
            return waiting
        known, full = self._seconds.get(below), self._seconds.get(padded)
        if known is None:
            return below
        return waiting if full is None or full / waiting <= known / below else below


def _deliver(futures: Sequence[asyncio.Future], results: Sequence[Any]) -> None:
    for future, result in zip(futures, results, strict=True):
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
