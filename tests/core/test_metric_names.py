"""Metrics have one naming; what runs wrote under earlier names is still understood."""

import json

import pytest

from jaxdino.core.metric_names import present, renamed
from jaxdino.stage import Stage
from jaxdino.train.progress import Progress
from jaxdino.train.workdir import Workdir


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("val_accuracy", "val/accuracy"),
        ("test_top5_accuracy", "test/top5_accuracy"),
        ("val.iou_50", "val/iou_50"),
        ("knn_accuracy", "val/knn_accuracy"),
        ("knn20_accuracy", "val/knn20_accuracy"),
        ("val/accuracy", "val/accuracy"),
        ("val_ratio", "val_ratio"),
        ("loss", "loss"),
    ],
)
def test_earlier_names(old, new):
    assert present(old) == new


def test_only_keys_and_monitors_are_renamed():
    tree = {"a": [{"val_loss": 1, "monitor": "val.miou"}], "monitor": None, "name": "val_loss"}
    assert renamed(tree) == {"a": [{"val/loss": 1, "monitor": "val/miou"}], "monitor": None, "name": "val_loss"}


def test_a_stage_may_watch_an_earlier_name():
    given = dict(name="a", rules=((".*", "g"),), groups=dict(g=dict(lr=1.0)), epochs=1, monitor="val_loss")
    assert Stage.of(given).monitor == "val/loss"


def test_the_folder_of_an_earlier_run_goes_on(tmp_path):
    config = {"early_stopping": {"monitor": "val/accuracy"}, "stages": [{"name": "a", "monitor": "val/loss"}]}
    earlier = {"early_stopping": {"monitor": "val_accuracy"}, "stages": [{"name": "a", "monitor": "val_loss"}]}
    (tmp_path / "config.json").write_text(json.dumps(earlier))
    record = {"stage": "a", "step": 1, "loss": 0.7, "time": 1.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record | {"val_accuracy": 0.5}) + "\n")
    folder = Workdir(tmp_path, config)  # raises for another config
    assert not folder.lengthened and folder.records() == [record | {"val/accuracy": 0.5}]
    saved = {
        "best_metrics": {"val_loss": 1.0},
        "best_model": {"stage": 0, "val_loss": 1.0},
        "health": {"knn_accuracy": 1},
    }
    now = Progress.of(saved)
    assert now.best_metrics == {"val/loss": 1.0} and now.best_model == {"stage": 0, "val/loss": 1.0}
    assert now.health == {"knn_accuracy": 1}  # the alarms' own words
