"""Every task in 2 and 4 processes of 1 and 2 devices: `python -m pytest -n0 -m soak tests/soak/test_process_matrix.py`.

Losses, metrics and weights are those of one process with as many devices.
"""

import pytest

from tests.launch.compared import assert_equal, run_all

TASKS = ("classify", "multilabel", "semantic", "distill", "segment", "detect", "depth", "instances")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs of one process: {devices: folder}."""
    made = {}

    def of(devices):
        if devices not in made:
            made[devices] = run_all(tmp_path_factory.mktemp("alone") / "runs", 1, devices, TASKS, 3600)
        return made[devices]

    return of


@pytest.mark.soak
@pytest.mark.parametrize(("count", "devices"), [(2, 1), (2, 2), (4, 1), (4, 2)])
def test_the_tasks_in_several_processes(alone, tmp_path, count, devices):
    several = run_all(tmp_path / "runs", count, devices, TASKS, 3600)
    for task in TASKS:
        assert_equal(alone(count * devices) / task, several / task)
