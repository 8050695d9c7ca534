"""The submitit launcher, by its local executor: a job that ends, one that fails, one that is interrupted."""

import subprocess
import sys
import threading
import time

import pytest

from launch import slurm

SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
open(sys.argv[1], "w")
time.sleep(60)
"""


def test_a_job_runs_the_command_and_names_its_log(tmp_path):
    command = [sys.executable, "-m", "launch.slurm", "--local", f"--workdir={tmp_path}"]
    done = subprocess.run([*command, "--config=linear", "--help-config"], capture_output=True, text=True, check=True)
    log = done.stdout.split("log ")[1].split(",")[0]
    end = time.monotonic() + 60
    while "completed successfully" not in (text := read(log)) and time.monotonic() < end:
        time.sleep(0.2)
    assert "completed successfully" in text and "data.root" in text


def read(file: str) -> str:
    try:
        with open(file) as opened:
            return opened.read()
    except FileNotFoundError:
        return ""


def test_a_failure_is_one():
    job = slurm.Training([])
    job.command = [sys.executable, "-c", "raise SystemExit(5)"]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        job()
    assert failed.value.returncode == 5


def test_a_signal_saves_the_run_and_submits_the_same_command_again(tmp_path):
    job, ready = slurm.Training([]), tmp_path / "ready"
    job.command = [sys.executable, "-c", SAVES, str(ready)]
    thread = threading.Thread(target=job)
    thread.start()
    while not ready.exists():
        time.sleep(0.01)
    again = job.checkpoint()
    thread.join(timeout=20)
    assert not thread.is_alive() and job.process.returncode == 0
    assert again.function.command == job.command and again.function.process is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--nodes=2", "--local"], "has one node"),
        (["--hours=0"], "--hours=0.0 must be above 0"),
        (["--gpus_per_node=0"], "must be at least 1"),
        ([], "sbatch is not found"),
    ],
)
def test_what_cannot_be_submitted_is_refused(tmp_path, flags, words, capfd):
    assert slurm.main([f"--workdir={tmp_path}", *flags]) == 2
    assert words in capfd.readouterr().err
