"""Wrong predictions, by loss, and their file."""

import csv

import numpy as np
import pytest

from jaxdino.evals.mistakes import mistakes, write_mistakes

LOGITS = np.array([[2.0, 0, 0], [0, 5, 0], [1, 0, 0], [0, 0, 3], [0, 1, 0]], np.float32)
LABELS = np.array([0, 0, 2, 2, 1])


def test_wrong_predictions_are_listed_by_loss():
    found = mistakes(LOGITS, LABELS, np.array([10, 11, 12, 13, 14]))
    assert [(one.index, one.label, one.predicted) for one in found] == [(11, 0, 1), (12, 2, 0)]
    first = np.exp([0.0, 5, 0]) / np.exp([0.0, 5, 0]).sum()
    assert found[0].probability == pytest.approx(first[1]) and found[0].loss == pytest.approx(-np.log(first[0]))


def test_the_file_names_images_and_classes(tmp_path):
    found = mistakes(LOGITS, LABELS, np.arange(5))
    write_mistakes(tmp_path / "mistakes.csv", found, ["a,b.png", "c.png"], ["cat", "dog", "owl"])
    with (tmp_path / "mistakes.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "true", "predicted", "probability", "loss"]
    assert [row[:3] for row in rows[1:]] == [["a,b.png", "cat", "dog"], ["c.png", "owl", "cat"]]


def test_a_model_without_mistakes():
    assert mistakes(LOGITS[:1], LABELS[:1], np.zeros(1, int)) == []
