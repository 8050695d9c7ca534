"""Reading processes and the signals that a terminal or a scheduler sends to the whole group."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, threading

from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.sources import load_source

if __name__ == "__main__":
    number = signal.Signals[os.sys.argv[1]]
    signal.signal(number, lambda *_: print("heard", flush=True))
    split = load_source(None).split("train")
    batches = make_train_iter(split, dict(num_workers=1), batch_size=8, image_size=8, preset="none", seed=0)
    if number == signal.SIGINT:  # while the process starts
        threading.Timer(0.5, lambda: os.killpg(0, number)).start()
    next(batches)
    os.killpg(0, number)
    print(sum(len(next(batches)["image"]) for _ in range(20)))
    batches.close()
"""


@pytest.mark.parametrize(("name", "times"), [("SIGINT", 2), ("SIGTERM", 1)])
def test_signals_of_the_group_are_left_to_the_main_process(tmp_path, name, times):
    (tmp_path / "read.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "read.py"), name]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    how = dict(env=env, capture_output=True, text=True, check=False, timeout=120, start_new_session=True)
    done = subprocess.run(command, **how)
    assert (done.returncode, done.stdout) == (0, "heard\n" * times + "160\n"), done.stderr
    assert "Traceback" not in done.stderr


ORPHANS = """
import time

from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.sources import load_source

if __name__ == "__main__":
    split = load_source(None).split("train")
    batches = make_train_iter(split, dict(num_workers=2), batch_size=8, image_size=64, preset="none", seed=0)
    next(batches)
    print("reading", flush=True)
    time.sleep(300)
"""


def running(name: str) -> list[str]:
    """Return the processes, without ended ones that nobody has waited for, whose environment names a test."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and f"READING={name}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(folder.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are listed in /proc")
def test_reading_processes_end_with_a_killed_parent(tmp_path):
    (tmp_path / "read.py").write_text(ORPHANS)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "READING": tmp_path.name}
    how = dict(env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with subprocess.Popen([sys.executable, str(tmp_path / "read.py")], **how) as process:
        assert process.stdout.readline() == "reading\n"
        assert len(running(tmp_path.name)) >= 3  # the main process, two that read, the resource tracker
        process.kill()
    deadline = time.monotonic() + 60
    while running(tmp_path.name) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not running(tmp_path.name)
