"""Losses of processes that take longer: `python -m pytest -n0 -m soak tests/soak/test_process_faults.py`."""

import signal

import pytest

from tests.launch.launched import lose, undisturbed, write_config


@pytest.mark.soak
def test_the_first_process_is_killed_and_each_one_is_stopped(tmp_path):
    config = write_config(tmp_path)
    whole = undisturbed(config, tmp_path / "whole")
    lose(whole, config, tmp_path / "killed", signal.SIGKILL, 0, "process 0 ({}) has ended without a message")
    for victim in (0, 1):
        words = f"process {victim} ({{}}) has not answered for 15 s"
        lose(whole, config, tmp_path / f"stopped{victim}", signal.SIGSTOP, victim, words)
