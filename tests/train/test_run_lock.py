"""One process in a run folder: refused, taken over after a kill, noticed when lost; reading needs no lock."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import child
import filelock
import pytest
import tiny

from jaxdino.core import processes
from jaxdino.core.errors import UserError
from jaxdino.train import run_lock
from jaxdino.train.loop import run
from jaxdino.train.run_lock import LOCK, OWNER, RunLock, Taken
from jaxdino.train.workdir import Workdir

HOLDER = """
import sys, time
from pathlib import Path
from jaxdino.train.run_lock import RunLock
RunLock(Path(sys.argv[1]), print).hold()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], env=child.environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def hold(folder, say=pytest.fail) -> RunLock:
    lock = RunLock(folder, say)
    lock.hold()
    return lock


def test_the_second_process_is_told_who_has_the_folder_until_that_is_killed(holder, tmp_path):
    began = time.monotonic()
    with pytest.raises(Taken) as error:
        Workdir(tmp_path, tiny.config(1)).open()
    assert time.monotonic() - began < 3
    host, stamp = re.escape(socket.gethostname()), r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*"
    words = (
        rf"--workdir={tmp_path} is used by process {holder.pid} on {host}\S*, since {stamp}: wait for it, stop it, or"
    )
    assert re.match(words, str(error.value))
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, OWNER]
    holder.kill()
    holder.wait()
    lock = hold(tmp_path)
    assert json.loads((tmp_path / OWNER).read_text())["pid"] == os.getpid()
    lock.release()
    assert not any(tmp_path.iterdir())


def marker(pid: int, host: str, start: int) -> str:
    return (
        f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken=a\nduration={float(run_lock.BOUND)!r}\nstart={start}\n"
    )


def test_a_process_number_that_is_used_again_is_no_owner(tmp_path):
    lock = hold(tmp_path)
    host = json.loads((tmp_path / OWNER).read_text())["host"]
    lock.release()
    assert run_lock._alive(os.getppid())  # the number alone would say that it runs
    (tmp_path / LOCK).write_text(marker(os.getppid(), host, 5))
    began = time.monotonic()
    hold(tmp_path).release()
    assert time.monotonic() - began < 2


def test_an_owner_elsewhere_is_watched(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "BOUND", 2.0)
    monkeypatch.setattr(run_lock, "BEAT", 0.3)
    (tmp_path / LOCK).write_text(marker(77, "elsewhere", 5))
    ended, lines = threading.Event(), []

    def renew():
        while not ended.wait(0.3):
            os.utime(tmp_path / LOCK)

    thread = threading.Thread(target=renew)
    thread.start()
    with pytest.raises(Taken, match="used by process 77 on elsewhere: wait for it"):
        hold(tmp_path, lines.append)
    ended.set()
    thread.join()
    assert len(lines) == 1 and "waiting up to 2 s to see whether it still runs" in lines[0]
    began = time.monotonic()
    hold(tmp_path, lines.append).release()  # it no longer renews
    assert 2 <= time.monotonic() - began < 6


@pytest.mark.parametrize("content", [b"\0" * 40, b"x", b"filelock/2\n", b"\xff" * 2000])
def test_a_damaged_lock_is_no_obstacle(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    (tmp_path / OWNER).write_bytes(content)
    hold(tmp_path, lambda line: None).release()


def test_a_lock_that_cannot_be_is_named(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(UserError, match=f"{LOCK} cannot be written: Is a directory"):
        hold(tmp_path)


@pytest.mark.parametrize("other", [False, True])
def test_a_lost_lock_stops_the_run_without_saving(tmp_path, monkeypatch, other):
    monkeypatch.setattr(run_lock, "BOUND", 2.0)
    monkeypatch.setattr(run_lock, "BEAT", 0.1)

    def on_step(step: int) -> None:
        if step == 1:
            (tmp_path / LOCK).unlink()
            if other:
                (tmp_path / LOCK).write_text(marker(os.getpid(), "elsewhere", 5))
            time.sleep(1)

    with pytest.raises(Taken, match="another process took it" if other else "it was deleted"):
        run(tiny.config(1, batch_size=128), tmp_path, on_step)
    assert (tmp_path / LOCK).exists() == other and not (tmp_path / "best").exists()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_run_refuses_a_second_one_and_lets_others_read(tmp_path):
    def on_step(step: int) -> None:
        for config in (tiny.config(1, 1, batch_size=128), tiny.config(1, 5, batch_size=128)):
            with pytest.raises(Taken, match=f"process {os.getpid()} on"):
                run(config, tmp_path)
        if step == 3:
            import jaxdino

            assert jaxdino.load(tmp_path).card.num_classes == 10  # of the first stage

    assert run(tiny.config(1, 1, batch_size=128), tmp_path, on_step)["finished"]
    assert not (tmp_path / LOCK).exists() and not (tmp_path / OWNER).exists()


def test_a_run_that_began_meanwhile_is_noticed(tmp_path):
    one, other = (Workdir(tmp_path, tiny.config(1)) for _ in range(2))
    one.open()
    one.lock.release()
    with pytest.raises(UserError, match="was changed by another process meanwhile"):
        other.open()
    other.lock.release()


@pytest.mark.parametrize("refused", [False, True])
def test_of_several_processes_the_first_one_holds_it(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(processes, "index", lambda: 1)
    asked = []
    monkeypatch.setattr(processes, "any_of", lambda what, mine: asked.append(mine) or (refused and "lock" in what))
    monkeypatch.setattr(processes, "wait_until_visible", lambda path: None)
    folder = Workdir(tmp_path / "run", tiny.config(1))
    if refused:
        with pytest.raises(Taken, match="see the message of the first process"):
            folder.open()
    else:
        folder.open()
        folder.open()
    assert asked[0] is False and not any(asked) and not (tmp_path / "run").exists()


def test_the_library_keeps_its_word(tmp_path):
    """An owner on this host that runs is never taken over at once, whatever the age of its lock."""
    lock = hold(tmp_path)
    os.utime(tmp_path / LOCK, (0, 0))
    other = filelock.SoftFileLease(tmp_path / LOCK, lease_duration=run_lock.BOUND, thread_local=False)
    with pytest.raises(filelock.Timeout):
        other.acquire(timeout=0)
    lock.release()
