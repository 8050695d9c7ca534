"""Metrics against numbers worked out by hand, and the judgement of epochs."""

import numpy as np
import pytest

from jaxdino.core.errors import UserError
from jaxdino.evals.classification import classification
from jaxdino.stage import Stage
from jaxdino.train.progress import Progress


def test_metrics_of_three_classes():
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    found = classification(logits, np.array([0, 1, 1, 2]))
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert found["loss"] == pytest.approx(-np.mean(np.log([0.7, 0.8, 0.3, 0.6])))
    assert "top5_accuracy" not in found


def test_top_five_and_a_class_that_the_split_lacks():
    logits = np.tile(np.arange(8.0), (2, 1))
    found = classification(logits, np.array([3, 2]))
    assert found["accuracy"] == 0 and found["top5_accuracy"] == 0.5
    with pytest.raises(UserError, match="no example"):
        classification(np.zeros((0, 8)), np.zeros(0, int))


def stage(**changes) -> Stage:
    groups = {"all": {"lr": 1.0}}
    return Stage.of(
        dict(name="s", rules=(("@all", "all"),), groups=groups, epochs=9) | dict(monitor="val/accuracy") | changes
    )


def test_a_plateau_counts_epochs_without_min_delta_and_keeps_the_best():
    rule, now = stage(patience=2, min_delta=0.1), Progress()
    better = [now.judge(rule, {"val/accuracy": value}) for value in (0.5, 0.55, 0.61, 0.6)]
    assert better == [True, True, True, False]  # the best is any gain; patience wants min_delta
    assert not now.at_plateau(rule) and now.best == 0.61
    now.judge(rule, {"val/accuracy": 0.65})
    assert now.at_plateau(rule) and now.best == 0.65


def test_a_loss_is_better_when_lower_and_nan_is_never_better():
    rule, now = stage(patience=2, min_delta=0.0, monitor="val/loss"), Progress()
    assert [now.judge(rule, {"val/loss": value}) for value in (2.0, float("nan"), 1.0)] == [True, False, True]
    assert now.best == 1.0


def test_patience_alone_counts_epochs_without_any_gain():
    rule, now = stage(patience=2), Progress()
    for value in (0.5, 0.5, 0.5):
        assert not now.at_plateau(rule)
        now.judge(rule, {"val/accuracy": value})
    assert now.at_plateau(rule)


@pytest.mark.parametrize(
    ("accuracy", "loss", "better"),
    [(0.91, 9.0, True), (0.9, 1.0, False), (0.9, 0.9, True), (0.8, 0.1, False), (float("nan"), 0.1, False)],
)
def test_a_later_stage_takes_best_only_by_being_better(accuracy, loss, better):
    now = Progress(best_model={"stage": 0, "val/accuracy": 0.9, "val/loss": 1.0})
    now.best_metrics = {"val/accuracy": accuracy, "val/loss": loss}
    assert now.beats_best_model(stage()) is better
    assert Progress().beats_best_model(stage())
