"""Logs as JSON lines on standard error: what was asked and how it went, never what an image shows."""

import atexit
import contextlib
import json
import logging
import queue
import sys
import threading
import time
from typing import Any

from jaxdino.core.json_file import finite

MOST = 10_000  # lines that wait to be written; more are lost, and counted
TOGETHER = 0.02  # seconds between writes under load
LAST = 2.0  # seconds for the lines that are left at the end


class Writer:
    """Write lines in a thread: what reads the log may be slow, or stop, and requests are answered all the same.

    The thread starts with the first line.
    """

    def __init__(self):
        self._lines: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._started, self._lost = False, 0
        self._lock = threading.RLock()  # a signal's handler logs too, in the thread that it interrupts

    def put(self, line: str) -> None:
        """Add a line; returns at once."""
        if self._lines.qsize() >= MOST:
            with self._lock:
                self._lost += 1
            return
        self._lines.put(line)
        if not self._started:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="log", daemon=True).start()
                atexit.register(self.flush)

    def flush(self) -> None:
        """Wait until all lines are written, at most `LAST` seconds."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(LAST)

    def _run(self) -> None:
        while True:
            found = [self._lines.get()]
            while not self._lines.empty():
                found.append(self._lines.get())
            lines = [one for one in found if isinstance(one, str)]
            with self._lock:
                lost, self._lost = self._lost, 0
            if lost:
                lines.append(_line("lines lost", "error", {"count": lost}))
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                if lines:
                    print("\n".join(lines), file=sys.stderr, flush=True)
            for one in found:
                if isinstance(one, threading.Event):
                    one.set()
            time.sleep(TOGETHER)


_writer = Writer()


def log(event: str, level: str = "info", **fields: Any) -> None:
    """Write a line: the time (UTC), the level, the event, and more fields. Returns at once."""
    _writer.put(_line(event, level, fields))


def _line(event: str, level: str, fields: dict[str, Any]) -> str:
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    return json.dumps(finite({"time": stamp, "level": level, "event": event, **fields}), default=str)


class JsonHandler(logging.Handler):
    """Write the lines of libraries in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"logger": record.name}
        if record.exc_info:
            fields["error"] = logging.Formatter().formatException(record.exc_info)
        log(record.getMessage(), record.levelname.lower(), **fields)


def take_over() -> None:
    """Send the logs of uvicorn through `log`."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [JsonHandler()], False
        logger.setLevel(logging.WARNING)
