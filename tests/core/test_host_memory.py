"""Memory that is freed and taken again costs no page faults."""

import os
import platform
import subprocess
import sys

import pytest

from jaxdino.core import host_memory

COUNT = """
import ctypes, resource, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from jaxdino.core.host_memory import keep_freed
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a huge page would be one fault where there are 512
said = keep_freed() if sys.argv[1] == "kept" else None
thread = ThreadPoolExecutor(1)
def written(size):
    np.empty(size, np.uint8)[:: 2**15] = 1  # one page of eight
def faults(blocks):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        thread.submit(written, int(sys.argv[2])).result()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(said, faults(1), faults(4))
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


def faults(how: str, size: int = 2**27, **env: str) -> tuple[str, int, int]:
    """What `keep_freed` said, and a process's page faults for one block of a thread and for four more."""
    command = [sys.executable, "-c", COUNT, how, str(size)]
    run = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True)
    said, one, more = run.stdout.split()
    return said, int(one), int(more)


@pytest.mark.parametrize("size", [2**27, 5 * 2**28], ids=["128 MiB", "1.25 GiB"])
def test_a_block_is_taken_again(size):
    said, one, more = faults("kept", size)
    assert said == "True" and more < one
    _, one, more = faults("given back", size)
    assert more > 3 * one


def test_who_has_chosen_is_left_alone():
    said, one, more = faults("kept", MALLOC_MMAP_THRESHOLD_="131072")
    assert said == "False" and more > 3 * one


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The list of programs that are started, on a system that has huge pages on request."""
    for name in host_memory.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(host_memory, "HUGE_PAGES", tmp_path / "enabled")
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.35"))
    found = []
    monkeypatch.setattr("os.execve", lambda *how: found.append(how))
    return found


def test_a_program_starts_again_in_huge_pages(started):
    host_memory.in_huge_pages()
    [(program, argv, variables)] = started
    assert program == sys.executable and argv[1:] == sys.orig_argv[1:]
    assert variables["GLIBC_TUNABLES"] == host_memory.HUGE and variables["PATH"] == os.environ["PATH"]


def test_a_program_goes_on_where_there_are_none(started, monkeypatch):
    host_memory.HUGE_PAGES.write_text("always madvise [never]\n")
    host_memory.in_huge_pages()
    host_memory.HUGE_PAGES.unlink()
    host_memory.in_huge_pages()
    host_memory.HUGE_PAGES.write_text("[always] madvise never\n")
    for libc in (("glibc", "2.34"), ("", "")):
        monkeypatch.setattr("platform.libc_ver", lambda found=libc: found)
        host_memory.in_huge_pages()
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setenv("GLIBC_TUNABLES", host_memory.HUGE)  # as after the start, or by the user
    host_memory.in_huge_pages()
    assert not started
