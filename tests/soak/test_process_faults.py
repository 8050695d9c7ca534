"""Losses of processes that take longer: `python -m pytest -n0 -m soak tests/soak/test_process_faults.py`."""

import os
import signal

import pytest

from jaxdino.train.run_lock import RunLock
from tests.launch.launched import Launch, error_of, lose, undisturbed, write_config


@pytest.mark.soak
def test_the_first_process_is_killed_and_each_one_is_stopped(tmp_path):
    config = write_config(tmp_path)
    whole = undisturbed(config, tmp_path / "whole")
    for victim in (0, 1):
        words = f"process {victim} ({{}}) has ended without a message"
        lose(whole, config, tmp_path / f"killed{victim}", signal.SIGKILL, victim, words)
    for victim in (0, 1):
        words = f"process {victim} ({{}}) has not answered for 15 s"
        lose(whole, config, tmp_path / f"stopped{victim}", signal.SIGSTOP, victim, words)


@pytest.mark.soak
def test_a_folder_in_use_is_refused_before_training(tmp_path):
    config, used = write_config(tmp_path), RunLock(tmp_path / "used", print)
    used.hold()
    launch = Launch(config, tmp_path / "used", 2)
    assert launch.wait(90) == [2, 2]
    used.release()
    assert f"used is used by process {os.getpid()} on" in error_of(launch.text(0))
