"""Boxes, depth and objects with masks in 2 and 4 processes of 1 and 2 devices:
`python -m pytest -n0 -m soak tests/soak/test_process_matrix.py`.

The other tasks are in the ordinary tests: `tests/launch/test_tasks_in_processes.py`.
"""

import pytest

from tests.launch.compared import DIVISIONS, assert_divisions_equal

TASKS = ("detect", "depth", "instances")


@pytest.mark.soak
@pytest.mark.parametrize("devices", DIVISIONS)
def test_several_processes_train_as_one_with_as_many_devices(tmp_path, devices):
    assert_divisions_equal(tmp_path, devices, TASKS)
