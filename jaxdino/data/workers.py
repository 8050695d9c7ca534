"""Reading processes. Ctrl-C and SIGTERM reach them too, and must not end them before the run has saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
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
        self._stream = iter(batches.mp_prefetch(options, worker_init_fn=leave_signals))
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


def leave_signals(index: int = 0, count: int = 1) -> None:
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
