"""Several processes of one run: they meet, compare how they were started, exchange values and notice losses.

Without `start` there is one process: `chief` is true, and nothing waits for anything.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.processes import stderr_filter
from jaxdino.core.processes.group import ENDED, GOES_ON, Group
from jaxdino.core.processes.place import Place
from jaxdino.core.processes.roll_call import meet

WAIT = 60.0
"""Seconds, by default, until a process that does not come or does not answer is lost."""
BACKSTOP = 10  # times that: the limit of JAX's own service, whose abort would hide our message
_group: Group | None = None


def start(place: Place, facts: Mapping[str, str], wait: float = WAIT) -> list[str]:
    """Meet the other processes, and start `jax.distributed`; return the names of all.

    Call it before anything that uses a device.

    Args:
      facts: what must be equal in all processes, {name: value}.
      wait: seconds until a process that does not come, or later does not answer, is lost.

    Raises:
      UserError: as `roll_call.meet`.
    """
    global _group
    names, links = meet(place, facts, wait)
    _group = Group(place.index, names, links, wait)
    if place.index:
        _filter_errors(f"error: process {place.index} ends: {names[0]} {ENDED}{GOES_ON}")
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # its handler of SIGTERM would replace ours
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=place.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=int(BACKSTOP * wait),
        heartbeat_timeout_seconds=int(BACKSTOP * wait),
        shutdown_timeout_seconds=int(wait) + 1,
    )
    return names


def _filter_errors(line: str) -> None:
    """Send this process's standard error through `stderr_filter`, in a process that outlives it."""
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-S", stderr_filter.__file__, line]
    sys.stderr.flush()
    _kept.append(subprocess.Popen(command, stdin=reading, stdout=2, start_new_session=True))
    os.dup2(writing, 2)
    for end in (reading, writing):
        os.close(end)


_kept: list[subprocess.Popen] = []


def count() -> int:
    """Return the number of processes of the run."""
    return _group.count if _group else 1


def index() -> int:
    """Return the number of this process."""
    return _group.index if _group else 0


def chief() -> bool:
    """Return whether this is process 0, which writes."""
    return index() == 0


def name(number: int) -> str:
    """Return a process in words: "process 1 (node7, pid 123)"."""
    return _group.names[number] if _group else "this process"


def exchange(what: str, value: Any) -> list[Any]:
    """Return the values of all processes; each must call it, in the same order. See `Group.exchange`."""
    return _group.exchange(what, value) if _group else [value]


def barrier(what: str) -> None:
    """Wait for all processes."""
    exchange(what, None)


def any_of(what: str, mine: bool) -> bool:
    """Return whether it is true in any process."""
    return any(exchange(what, bool(mine)))


def agree(what: str, values: Mapping[str, Any], fix: str) -> None:
    """Raise UserError in all processes if one finds other values, naming it and what differs.

    Args:
      what: what is compared, for the message. values: {name: JSON value}. fix: what to do, a sentence.
    """
    found = exchange(what, dict(values))
    for number, theirs in enumerate(found):
        for key in [*found[0], *(key for key in theirs if key not in found[0])]:
            if found[0].get(key) != theirs.get(key):
                raise UserError(
                    f"the processes of this run do not find the same {what}: {key} is {theirs.get(key)} in "
                    f"{name(number)}, and {found[0].get(key)} in {name(0)}. {fix}"
                )


def wait_until_visible(path: Path) -> None:
    """Wait until a file that process 0 has written can be seen here too. All processes must call it.

    Network file systems show a new file some seconds later on other machines.

    Raises:
      UserError: in all processes, naming those that do not see it: the folder is not shared.
    """
    barrier(f"{path.name} is written")
    end, there = time.monotonic() + VISIBLE, path.exists()
    while _group and not there and time.monotonic() < end:
        time.sleep(0.2)
        there = path.exists()
    blind = [number for number, sees in enumerate(exchange(f"{path.name} is seen", there)) if not sees]
    if blind:
        raise UserError(
            f"{', '.join(map(name, blind))} cannot see {path}, which {name(0)} has written: the run's folder must "
            "be on storage that all machines share, at the same path"
        )


VISIBLE = 20.0
"""Seconds for a file system to show a new file on another machine."""


def fail(reason: str, status: int) -> bool:
    """Tell the other processes about an error; return whether process 0 has already printed the same one."""
    return _group.fail(reason, status) if _group else False


def linger() -> None:
    """Let process 0 outlive the others."""
    if _group:
        _group.linger()


def settle() -> None:
    """Wait for the watch to name the process that was lost, and to end this one."""
    if _group:
        _group.settle()


def finish() -> None:
    """Wait for all processes, and disconnect."""
    global _group
    if _group:
        import jax

        _group.end()
        jax.distributed.shutdown()
        _group.close()
        _group = None
