"""Faults of runs in several processes: all end in bounded time with a line that names the process, and runs go on.

SIGKILL of process 0, SIGSTOP, exact continuation and a folder in use are in tests/soak/test_process_faults.py.
"""

import json
import signal
from pathlib import Path

import pytest

from tests.launch.launched import STEPS, Launch, error_of, lines, lose_one, undisturbed, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory) -> Path:
    return undisturbed(config, tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.slow
def test_a_killed_process_is_named_sigterm_to_one_ends_all_and_one_process_goes_on(whole, config, tmp_path):
    """Three launches of the same folder, with the losses of the undisturbed run."""
    lose_one(config, tmp_path / "run", signal.SIGKILL, 1, "process 1 ({}) has ended without a message")
    launch = Launch(config, tmp_path / "run", 2)
    launch.until_step(16)
    launch.processes[1].send_signal(signal.SIGTERM)
    assert launch.wait(60) == [0, 0]
    assert "resuming after step" in launch.text(0) and "stopped in another process after step" in launch.text(0)
    saved = [int(path.name) for path in (tmp_path / "run/checkpoints").iterdir() if path.name.isdecimal()]
    at = json.loads((tmp_path / "run/summary.json").read_text())["stopped"]["step"]
    assert max(saved) == at and 16 <= at < STEPS
    again = Launch(config, tmp_path / "run", 1)
    assert again.wait() == [0], again.text(0)[-3000:]
    for one, other in zip(lines(whole), lines(tmp_path / "run"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_what_differs_at_the_start_and_a_process_that_does_not_come_are_named(config, tmp_path):
    launch = Launch(config, tmp_path / "run", 2, own=lambda index: [f"--config.seed={index}"])
    other = Launch(config, tmp_path / "run", 3, "--wait=4", only=(0, 2))
    assert launch.wait(60) == [2, 2] and other.wait(60) == [2, 2]
    for index in launch.outs:
        assert "started differently from process 0: config.seed is 1, in process 0 0." in error_of(launch.text(index))
    for index in other.outs:
        assert "process 1 of 3 did not come within 4 s (--wait)" in error_of(other.text(index))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_not_shared_is_refused_before_training(config, tmp_path):
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
    apart = Launch(config, Path("run"), 2, outs=tmp_path / "apart", places=places)
    assert apart.wait(90) == [2, 2]
    assert "cannot see run/run.lock.json, which process 0 (" in error_of(apart.text(0))
    assert error_of(apart.text(0)).startswith("error: process 1 (")
    assert not any((place / "run/checkpoints").exists() for place in places)
