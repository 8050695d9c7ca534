"""The table at a run's end, numbers of each class, and the time that is left."""

import csv
import types

import numpy as np
import pytest
from test_metrics import stage

from jaxdino.core.image_sizes import Sizes
from jaxdino.evals.classification import most_frequent, per_class, write_confusion
from jaxdino.train import pace, results
from jaxdino.train.pace import Pace, duration
from jaxdino.train.progress import Progress
from jaxdino.train.task import Part

LABELS = np.array([0, 1, 1, 2, 1])
LOGITS = np.eye(4)[[0, 1, 2, 2, 1]]
NAMES = ("a", "b, c", "d", "e")


def test_numbers_of_each_class():
    found = per_class(LOGITS, LABELS, NAMES)
    assert [one["accuracy"] for one in found.values()] == [1.0, pytest.approx(2 / 3), 1.0, None]
    assert [one["precision"] for one in found.values()] == [1.0, 1.0, 0.5, None]
    assert [one["images"] for one in found.values()] == [1, 3, 1, 0] and found["e"]["f1"] is None


def test_the_confusion_matrix_has_true_classes_as_rows(tmp_path):
    write_confusion(tmp_path / "c.csv", LOGITS, LABELS, NAMES)
    rows = list(csv.reader((tmp_path / "c.csv").read_text().splitlines()))
    assert rows[0][1:] == list(NAMES) and rows[2] == ["b, c", "0", "2", "1", "0"]


def test_the_most_frequent_class_is_that_of_training():
    found = most_frequent(np.array([1, 1, 2, 0]), LABELS, NAMES)
    assert found == {"class": "b, c", "accuracy": 0.6, "balanced_accuracy": pytest.approx(1 / 3)}


def test_the_lowest_and_highest_of_many_classes_are_named():
    classes = {f"c{i}": {"accuracy": i / 20, "images": 2} for i in range(20)} | {
        "none": {"accuracy": None, "images": 0}
    }
    low, high, missing = results.class_lines("test", classes)
    assert "c0 0.000 (2), c1 0.050" in low and "c5" not in low and "c19 0.950" in high and "1 class has no" in missing
    few = results.class_lines("val", per_class(LOGITS, LABELS, NAMES))
    assert few[0].startswith("val accuracy of each class (images): b, c 0.667 (3)") and len(few) == 2


def entry(name: str, best: int | None, value: float) -> dict:
    return {"name": name, "epochs": 7, "best_epoch": best, "trainable_fraction": 0.5, "val/loss": value, "seconds": 1.0}


def test_the_delivered_model_is_marked():
    entries = [entry("head", 5, 0.4), entry("all", 0, 0.4)]
    table = results.results_rows(entries, ("val/loss",), {"start": {}}, {"stage": "head", "epoch": 5})
    assert [row[-1] == "yes" for row in table] == [False, False, True, False]
    assert [row[2] for row in table[2:]] == ["5 of 7", "as given"]
    start = results.results_rows(entries, ("val/loss",), {"start": {"val/loss": 0.4}}, {})
    assert [row[-1] == "yes" for row in start] == [False, True, False, False]
    assert results.model_words({}) == "the model that the run started from"
    assert results.model_words({"stage": "head", "epoch": 5}) == "model of stage 'head', epoch 5"


def test_what_a_stage_is_given_is_its_best_until_an_epoch_is_better():
    first, second = stage(), stage()
    now = Progress()
    now.judge(first, {"val/accuracy": 0.9, "val/loss": 1.0})
    handed = now.next_stage(second, "best", alike=True)
    assert handed.best == 0.9 and handed.origin == {"stage": "s", "epoch": 1}
    handed.origin = {"stage": "before", "epoch": 1}
    judged = [handed.judge(second, {"val/accuracy": a, "val/loss": b}) for a, b in ((0.8, 0.1), (0.9, 1.0), (0.9, 0.9))]
    assert judged == [False, False, True] and handed.best_epoch(second) == 3
    assert not handed.judge(second, {"val/accuracy": 0.9, "val/loss": 0.1})  # of its own epochs, the first
    assert now.next_stage(second, "best", alike=False).best is None


def test_self_distillation_hands_on_its_latest():
    now, watched = Progress(), stage(monitor="val/knn_accuracy")
    for value in (0.9, 0.7):
        now.judge(watched, {"val/knn_accuracy": value})
    after = now.next_stage(watched, "latest", alike=True)
    assert after.best == 0.7 and after.origin == {"stage": "s", "epoch": 2}
    now.judge(watched, {"val/knn_accuracy": 0.8}, healthy=False)
    assert now.next_stage(watched, "latest", alike=True).best is None


def test_the_time_left_is_of_all_stages_and_without_compiling(monkeypatch):
    def part(index: int, fraction: float, patience: int):
        about = types.SimpleNamespace(batch_size=8, plateaus=patience > 0)
        plan = types.SimpleNamespace(trainable_fraction=fraction)
        return Part(index, about, plan, None, None, 10, 20, Sizes.one((8, 8)), (8, 8), seed=0)

    parts, now = [part(0, 0.0, 3), part(1, 1.0, 0)], [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    timed = Pace(parts)
    timed.begin()
    assert timed.words(parts[0], 0) == ""
    for step in range(10):
        now[0] += 30.0 if step == 0 else 1.0
        assert timed.stepped(parts[0], {}) == (step == 0)
    now[0] += 5.0
    timed.ended_epoch()
    here = 10 * 1.0 + 5.0
    assert timed.left(parts[0], 10) == pytest.approx(
        here + 20 * 3.0 + 2 * 5.0 + 30.0
    )  # a backward pass costs two forward
    assert timed.words(parts[0], 10) == "at most 1 min 55 s left" and timed.words(parts[1], 0).startswith("about")
    assert [duration(s) for s in (0.2, 61, 7322)] == ["1 s", "1 min 1 s", "2 h 2 min"]
