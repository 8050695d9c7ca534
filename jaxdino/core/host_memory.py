"""Configure the host's memory allocator, used by XLA on a CPU and by the decoding threads."""

import ctypes
import os
import platform
import re
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # malloc.h
CHOSEN = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_ARENA_MAX",
    "GLIBC_TUNABLES",
)
HUGE = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=16777216:glibc.malloc.trim_threshold=67108864"
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def in_huge_pages() -> None:
    """Start this program again, in the same process, with large blocks of memory in huge pages, if the system has them.

    A program calls it first, before it imports what takes time: glibc reads this choice at its start only. Blocks of
    16 MiB or more are then returned when they are freed, and fresh ones cost few page faults, so that a process holds
    less memory than with `keep_freed` (see docs/performance.md). Returns where that cannot be: with
    another C library, a glibc before 2.35, or if an environment variable configures malloc.
    """
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35) or any(one in os.environ for one in CHOSEN):
        return
    try:
        if "[never]" in HUGE_PAGES.read_text():
            return
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"GLIBC_TUNABLES": HUGE})
    except OSError:  # no such file in some containers
        return


def keep_freed() -> bool:
    """Let the process keep freed memory for the next step. Return True if that could be set.

    A step allocates its scratch memory with malloc and frees it. glibc returns large blocks to the system at once, so
    that fresh pages cause page faults at each step; here it keeps blocks of any size. The process keeps its peak
    memory, which grows by 20 to 40% (see docs/performance.md). All threads share one arena: no other keeps blocks above
    64 MiB, and JAX allocates the scratch memory of a large program in a thread of its own. Does nothing for other C
    libraries, or if the same is set by an environment variable.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in CHOSEN):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    chosen = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26))  # -1: never
    return all(mallopt(*one) for one in chosen)


def return_freed() -> None:
    """Give freed memory back to the system: what has no later use, such as that of a compilation.

    Otherwise the next large block comes on top of it. Does nothing for C libraries other than glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


class Peak:
    """Measure by how much the memory of this process grows within a `with` block, at its largest.

    Attributes:
      grown: bytes; None where the system does not tell (it is Linux that does).
    """

    grown: int | None = None

    def __enter__(self) -> "Peak":
        try:
            return_freed()  # or freed memory that is taken again would not count
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
