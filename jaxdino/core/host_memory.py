"""The allocator of the host, where XLA on a CPU and the threads that decode take their memory."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed() -> bool:
    """Lets the process keep what it frees, for the next step to take; True if that could be set.

    A step takes its scratch memory from malloc and frees it. glibc gives large blocks back to the system at once, whose
    fresh pages then cost a fault each. The process holds on to its peak, which grows by a fifth to two fifths (figures
    in docs/performance.md). Other C libraries are left alone, and who has set the same by an environment variable.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in CHOSEN):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    if not (mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)):  # before glibc 2.35 no more
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_TOP_PAD, 2**26))
