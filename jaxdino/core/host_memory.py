"""Configure the host's memory allocator, used by XLA on a CPU and by the decoding threads."""

import ctypes
import os
import platform
import re
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8  # malloc.h
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
LARGE = 2**24
"""Bytes from which a block does not make the kept memory grow."""


def keep_freed() -> bool:
    """Let the process keep freed memory for the next step. Return True if that could be set.

    A step allocates its scratch memory with malloc and frees it. glibc returns large blocks to the system at once, so
    that fresh pages cause page faults at each step, and keeps an arena of freed memory for each of many threads. Here
    all threads share one arena, which keeps what is freed. A block of `LARGE` or more that finds no place in it is not
    added to it, but goes back at once: added, it would take its size again whenever its place is too small by a few
    bytes (see docs/runs.md). Does nothing for other C libraries, or if one of these is set by an environment variable.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in CHOSEN):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: LARGE, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26}
    return all(mallopt(name, value) for name, value in wanted.items())


class Peak:
    """Measure by how much the memory of this process grows within a `with` block, at its largest.

    Attributes:
      grown: bytes; None where the system does not tell (it is Linux that does).
    """

    grown: int | None = None

    def __enter__(self) -> "Peak":
        try:
            if platform.libc_ver()[0] == "glibc":
                ctypes.CDLL(None).malloc_trim(0)  # or freed memory that is taken again would not count
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            self._before: int | None = _resident("VmRSS")
        except (OSError, TypeError):
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self.grown = _resident("VmHWM") - self._before

    def highest(self) -> int | None:
        """Return the most bytes that the process has held since the block began; None where that is not known."""
        return None if self._before is None else _resident("VmHWM")


def resident() -> int | None:
    """Return the bytes of memory that this process holds now; None where the system does not tell, as on macOS."""
    try:
        return _resident("VmRSS")
    except OSError:
        return None


def available() -> int | None:
    """Return the bytes of memory that the machine still has for programs; None where the system does not tell."""
    try:
        return _resident("MemAvailable", "/proc/meminfo") or None
    except OSError:
        return None


def _resident(name: str, file: str = "/proc/self/status") -> int:
    """Return a number of a file of /proc, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(file).read_text())
    return int(found[1]) * 1024 if found else 0
