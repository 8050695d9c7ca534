"""Two processes train as one does: classification, and self-distillation with Sinkhorn and k-NN. The rest is soaked."""

import pytest

from tests.launch.compared import assert_equal, run_all

TASKS = ("classify", "distill")


@pytest.mark.slow
def test_two_processes_train_as_one_with_as_many_devices(tmp_path):
    one, two = (run_all(tmp_path / f"{count}", count, 2 // count, TASKS) for count in (1, 2))
    for task in TASKS:
        assert_equal(one / task, two / task)
