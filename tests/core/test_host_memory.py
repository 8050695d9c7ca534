"""Memory that is freed and taken again costs no page faults."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from jaxdino.core.host_memory import keep_freed, resident
said = keep_freed() if sys.argv[1] == "kept" else None
blocks = lambda: len([np.ones(3 * 2**20, np.float32) for _ in range(3)])  # 12 MiB each
def faults(times):
    threads.extend(ThreadPoolExecutor(1) for _ in range(times))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for one in threads[-times:]:  # they go on living, each with its arena, if it has one
        one.submit(blocks).result()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
threads = []
counts = faults(1), faults(8)
before = resident()
np.ones(2**24, np.float32)
print(said, *counts, resident() - before < 2**25)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


def faults(how: str, **env: str) -> tuple[str, int, int]:
    """What `keep_freed` said, and a process's page faults in one thread and in eight more; a large block goes back."""
    command = [sys.executable, "-c", COUNT, how]
    run = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True)
    said, one, more, back = run.stdout.split()
    assert back == "True"
    return said, int(one), int(more)


def test_blocks_are_taken_again_by_any_thread():
    said, one, more = faults("kept")
    assert said == "True" and more < one
    _, one, more = faults("given back")
    assert more > 4 * one


def test_who_has_chosen_is_left_alone():
    said, one, more = faults("kept", MALLOC_MMAP_THRESHOLD_="131072")
    assert said == "False" and more > 4 * one
