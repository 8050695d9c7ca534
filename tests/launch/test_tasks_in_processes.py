"""Several processes train as one. Boxes, depth and objects, and the other divisions of each task, are soaked."""

import pytest

from tests.launch.compared import assert_equal, run_all

TASKS = ("classify", "multilabel", "semantic", "distill", "segment")


@pytest.mark.slow
def test_two_processes_train_as_one_with_as_many_devices(tmp_path):
    one, two = (run_all(tmp_path / f"{count}", count, 2 // count, TASKS) for count in (1, 2))
    for task in TASKS:
        assert_equal(one / task, two / task)


@pytest.mark.slow
def test_four_processes_and_two_of_two_devices_train_as_one_of_four(tmp_path):
    one, two, four = (run_all(tmp_path / f"{count}", count, 4 // count, ("classify",)) for count in (1, 2, 4))
    for several in (two, four):
        assert_equal(one / "classify", several / "classify")
