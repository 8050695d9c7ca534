"""Logs as JSON lines on standard error: what was asked and how it went, never what an image shows."""

import json
import logging
import sys
import threading
import time
from typing import Any

from jaxdino.core.json_file import finite

_lock = threading.Lock()


def log(event: str, level: str = "info", **fields: Any) -> None:
    """Write a line: the time (UTC), the level, the event, and more fields."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    line = json.dumps(finite({"time": stamp, "level": level, "event": event, **fields}), default=str)
    with _lock:
        print(line, file=sys.stderr, flush=True)


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
