"""Several processes train as one with as many devices. Boxes, depth and objects with masks are soaked."""

import pytest

from tests.launch.compared import DIVISIONS, assert_divisions_equal

TASKS = ("classify", "multilabel", "semantic", "distill", "segment")


@pytest.mark.slow
@pytest.mark.parametrize("devices", DIVISIONS)
def test_several_processes_train_as_one_with_as_many_devices(tmp_path, devices):
    assert_divisions_equal(tmp_path, devices, TASKS)
