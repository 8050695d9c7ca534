"""Stop a run early: SIGTERM, Ctrl-C or a time limit. The training loop polls it between steps."""

import os
import re
import signal
import threading
import time
from typing import Any

from jaxdino.core import processes
from jaxdino.core.errors import UserError

SIGNALS = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def seconds(limit: str) -> float:
    """Parse a duration: "2h", "90m", "45s", "1h30m", or a number of seconds.

    Raises:
      UserError: for any other text, and for 0.
    """
    text = str(limit).strip().lower()
    parts = re.fullmatch("".join(rf"(?:(\d+(?:\.\d+)?)\s*{unit}\s*)?" for unit in UNITS), text)
    if re.fullmatch(r"\d+(\.\d+)?", text):
        found = float(text)
    else:
        found = (
            sum(float(n or 0) * unit for n, unit in zip(parts.groups(), UNITS.values(), strict=True)) if parts else 0
        )
    if not found > 0:
        raise UserError(f"time_limit={limit!r} is not a time above 0: give 2h, 90m, 45s, 1h30m or a number of seconds")
    return found


class Stopped(Exception):
    """The run was asked to stop; everything is saved by the time the stage raises this."""


class Stop:
    """Check whether the run must stop. A context manager that handles SIGTERM and Ctrl-C.

    A second signal ends the process at once. The time limit counts from the creation of this object and only takes
    effect after a step of this process, so that a run that is restarted repeatedly always finishes.

    Args:
      time_limit: see `seconds`; None for no limit.

    Raises:
      UserError: for a time limit that cannot be parsed.
    """

    def __init__(self, time_limit: str | None = None):
        self._limit = time_limit
        self._deadline = None if time_limit is None else time.monotonic() + seconds(time_limit)
        self._signal: str | None = None
        self._stepped = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        self._signal = SIGNALS[number]
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        line = f"\n{self._signal}: saving after this step, then leaving; a second one leaves at once\n"
        os.write(2, line.encode())  # print is not safe to call in a signal handler

    def stepped(self) -> None:
        """Record that a step was taken; from now on the time limit applies."""
        self._stepped = True

    @property
    def reason(self) -> str:
        """Return why this process must stop, or "" if it need not."""
        if self._signal:
            return f"by {self._signal}"
        late = self._deadline is not None and self._stepped and time.monotonic() >= self._deadline
        return f"at the time limit of {self._limit}" if late else ""

    def asked(self) -> bool:
        """Return whether any process of the run must stop; the same answer in all processes."""
        return processes.any_of("stop", bool(self.reason))

    def check(self) -> None:
        """Raise Stopped if any process of the run must stop. All processes must call it equally often."""
        if self.asked():
            raise Stopped
