"""The launcher of one machine: devices of each process, errors with numbers, statuses."""

import subprocess
import sys

import pytest

from jaxdino.core.errors import UserError
from launch import local
from tests.train import child


def test_gpus_are_divided_and_a_cpu_has_devices(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,4,5")
    assert [local.environment(index, 2, None)["CUDA_VISIBLE_DEVICES"] for index in (0, 1)] == ["0,1", "4,5"]
    assert local.environment(1, 2, 1) == {"CUDA_VISIBLE_DEVICES": "1"}
    with pytest.raises(UserError, match="this machine has 4"):
        local.environment(0, 3, 2)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--a")
    assert local.environment(0, 2, 3) == {"XLA_FLAGS": "--a --xla_force_host_platform_device_count=3"}
    assert local.environment(0, 2, None) == {}
    with pytest.raises(UserError, match="at least 1"):
        local.run(0, [])


def test_errors_have_the_number_of_their_process_and_the_status_is_theirs():
    command = [sys.executable, "-m", "launch.local", "-n", "2", "--config=configs/linear.py", "--config.sed=1"]
    settings = child.environment() | {"PYTHONUNBUFFERED": "1"}  # where the end of a line can be a piece of its own
    done = subprocess.run(command, cwd=child.ROOT, env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert sorted(line[:10] for line in done.stderr.splitlines()) == ["[1] error:", "error: --c"]
