"""Configure the host's memory allocator, used by XLA on a CPU and by the decoding threads."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed() -> bool:
    """Let the process keep freed memory for the next step. Return True if that could be set.

    A step allocates its scratch memory with malloc and frees it. glibc returns large blocks to the system at once, so
    that fresh pages cause page faults at each step. The process keeps its peak memory, which grows by 20 to 40% (see
    docs/performance.md). Does nothing for other C libraries, or if the same is set by an environment variable.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in CHOSEN):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    if not (mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)):  # the limit before glibc 2.35
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_TOP_PAD, 2**26))
