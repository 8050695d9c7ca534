"""Runs in several processes as users launch them, and what happens when one is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from convert.store import load_model
from launch.local import free_port
from tests.train import child
from tests.train.measured import MEASURED

CONFIG = """
import sys
sys.path.insert(0, {tests!r})
import tiny

def get_config(model=None):
    return tiny.config(2, batch_size=16, checkpoint__every_steps=5, writers="none", ema_decay=0.9)
"""
STEPS = 32


def write_config(folder: Path) -> Path:
    """Write the config of the runs, as a user has one."""
    file = folder / "tiny_run.py"
    file.write_text(CONFIG.format(tests=str(child.ROOT / "tests/train")))
    return file


class Launch:
    """Processes of a run, started by hand; their output is in files beside the folder."""

    def __init__(
        self,
        config: Path,
        folder: Path,
        count: int,
        *flags: str,
        only=None,
        own=lambda index: (),
        outs=None,
        places=None,
    ):
        settings = child.environment() | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=4", "count=1")}
        at, self.folder, self.processes, self.outs = f"--coordinator=127.0.0.1:{free_port()}", folder, {}, {}
        base = [sys.executable, "-m", "jaxdino.main", f"--config={config}", f"--workdir={folder}", "--wait=15", *flags]
        for index in range(count) if only is None else only:
            place = [at, f"--num_processes={count}", f"--process_id={index}"] if count > 1 else []
            beside = outs or folder
            self.outs[index] = beside.with_name(f"{beside.name}.{index}.{at[-5:]}")
            with self.outs[index].open("wb") as out:
                command = [*base, *place, *own(index)]
                cwd = places[index] if places else child.ROOT
                self.processes[index] = subprocess.Popen(command, cwd=cwd, env=settings, stdout=out, stderr=out)

    def wait(self, seconds: float = 400, of=None) -> list[int]:
        end = time.monotonic() + seconds
        try:
            return [self.processes[i].wait(max(end - time.monotonic(), 0.1)) for i in of or self.processes]
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("\n".join(map(self.text, self.outs))[-6000:]) from None

    def text(self, index: int) -> str:
        return self.outs[index].read_text(errors="replace")

    def until_step(self, step: int) -> None:
        """Wait until metrics.jsonl has the line of a step."""
        end, file = time.monotonic() + 400, self.folder / "metrics.jsonl"
        while time.monotonic() < end and (not file.exists() or file.read_bytes().count(b"\n") < step):
            assert all(one.poll() is None for one in self.processes.values()), self.text(0)[-3000:]
            time.sleep(0.02)

    def kill(self) -> None:
        for one in self.processes.values():
            one.kill()
            one.wait()


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if name not in MEASURED} for line in found]


def error_of(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("error: "))


def undisturbed(config: Path, folder: Path) -> Path:
    """Run two processes to the end."""
    launch = Launch(config, folder, 2)
    assert launch.wait() == [0, 0], launch.text(0)[-3000:] + launch.text(1)[-3000:]
    assert "2 processes, found by the flags: process 0 (" in launch.text(0)
    assert "epoch" not in launch.text(1) and not list(folder.glob("run.lock*"))
    return folder


def assert_same(folder: Path, other: Path) -> None:
    assert lines(folder) == lines(other)
    assert load_model(folder / "best")[0].digest == load_model(other / "best")[0].digest


def lose_one(config: Path, folder: Path, number: int, victim: int, words: str) -> None:
    """Send a signal to one of two processes: the other names it and ends."""
    launch = Launch(config, folder, 2)
    launch.until_step(12)
    launch.processes[victim].send_signal(number)
    begin = time.monotonic()
    assert launch.wait(60, of=[1 - victim])[0] in ((75,) if victim else (75, -signal.SIGABRT))  # JAX may be faster
    assert time.monotonic() - begin < (30 if number == signal.SIGSTOP else 20)
    launch.kill()
    host = f"{os.uname().nodename}, pid {launch.processes[victim].pid}"
    assert words.format(host) in error_of(launch.text(1 - victim))
    assert launch.text(1 - victim).count("error: ") == 1 and "Check failure" not in launch.text(1 - victim)


def lose(whole: Path, config: Path, folder: Path, number: int, victim: int, words: str) -> None:
    """Send a signal to one of two processes: the other names it, and the same launch ends as the undisturbed run."""
    lose_one(config, folder, number, victim, words)
    again = Launch(config, folder, 2)
    assert again.wait() == [0, 0], again.text(0)[-3000:]
    assert "resuming after step" in again.text(0)
    assert_same(whole, folder)
