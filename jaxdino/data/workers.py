"""Reading processes. Ctrl-C and SIGTERM reach them too, and must not end them before the run has saved."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, parent_process, resource_tracker
from typing import Any

import grain
from absl import flags

GRACE = 20  # seconds that a reading process survives SIGTERM; Grain closes it with a signal of its own


class ProcessStream:
    """Iterate over batches read by `count` processes, which leave signals to the main process."""

    def __init__(self, batches: grain.IterDataset, count: int):
        if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, which a notebook never parses
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(count, per_worker_buffer_size=2)
        self._stream = iter(batches.mp_prefetch(options, worker_init_fn=prepare))
        self._started = False

    def __iter__(self) -> "ProcessStream":
        return self

    def __next__(self) -> Any:
        if self._started:
            return next(self._stream)
        with _interrupts_blocked():  # the first batch starts the processes
            first = next(self._stream)
        self._started = True
        return first

    def close(self) -> None:
        """End the processes."""
        self._stream.close()


def prepare(index: int = 0, count: int = 1) -> None:
    """Prepare this reading process: it leaves signals to the main process, and ends when that process is gone."""
    _leave_signals()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the main process has ended, even by SIGKILL; then end this one.

    When the last of them is gone, Python's resource tracker removes the shared memory that held batches.
    """
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _leave_signals() -> None:
    """Ignore Ctrl-C in this process; survive SIGTERM for `GRACE` seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT while processes and threads start: they inherit the block until their handlers are installed."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it later would unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
