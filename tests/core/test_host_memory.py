"""Memory that is freed and taken again costs no page faults."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import ctypes, resource, sys
import numpy as np
from jaxdino.core.host_memory import keep_freed
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a huge page would be one fault where there are 512
def faults(blocks):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        np.ones(2**24, np.float32)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(keep_freed() if sys.argv[1] == "kept" else None, faults(1), faults(8))
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


def faults(how: str, **env: str) -> tuple[str, int, int]:
    """What `keep_freed` said, and a process's page faults for one block and for eight more."""
    command = [sys.executable, "-c", COUNT, how]
    run = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True)
    said, one, more = run.stdout.split()
    return said, int(one), int(more)


def test_a_block_is_taken_again():
    said, one, more = faults("kept")
    assert said == "True" and more < one
    _, one, more = faults("given back")
    assert more > 4 * one


def test_who_has_chosen_is_left_alone():
    said, one, more = faults("kept", MALLOC_MMAP_THRESHOLD_="131072")
    assert said == "False" and more > 4 * one
