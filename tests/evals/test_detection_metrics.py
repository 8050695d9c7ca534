"""COCO's metrics of boxes, on cases that can be counted by hand."""

import numpy as np
import pytest

from jaxdino.evals.detection import DetectionEvaluator

TRUTH = np.array([[10, 10, 30, 30, 0, 0], [50, 50, 90, 90, 1, 0], [0, 0, 8, 8, 1, 1]], np.float32)


def found(boxes, scores, labels, truth=TRUTH):
    given = dict(boxes=np.array([boxes], np.float32), scores=np.array([scores]), labels=np.array([labels]))
    return given | {"truth": [truth]}


def test_a_perfect_model_and_one_that_finds_nothing():
    evaluator = DetectionEvaluator(("a", "b", "c"))
    evaluator.update(found(TRUTH[:2, :4], [0.9, 0.8], [0, 1]))
    assert evaluator.compute() == pytest.approx({"map": 1, "map50": 1, "map75": 1, "ap/a": 1, "ap/b": 1})
    nothing = DetectionEvaluator(("a", "b", "c"))
    nothing.update(found(TRUTH[:2, :4], [0.0, 0.0], [0, 1]))
    assert nothing.compute()["map"] == 0 and nothing.curves()["b"].tolist() == [0] * 101
    assert np.isnan(DetectionEvaluator(("a",)).compute()["map"])


def test_overlap_classes_crowds_and_images_without_objects():
    evaluator = DetectionEvaluator(("a", "b"))
    boxes = [[10, 10, 30, 25], [50, 50, 90, 90], [1, 1, 7, 7], [50, 50, 90, 90]]  # 0.75 of a; b; in a crowd; b as a
    evaluator.update(found(boxes, [0.9, 0.8, 0.7, 0.95], [0, 1, 1, 0]))
    values = evaluator.compute()
    assert values["ap/b"] == pytest.approx(1)  # what lies in a crowd counts neither way
    assert values["ap/a"] == pytest.approx(0.5 * 6 / 10)  # the second of two, up to an overlap of 0.75
    assert values["map50"] == pytest.approx(0.75) and values["map75"] == pytest.approx(0.75)
    assert evaluator.curves()["a"][:3].tolist() == pytest.approx([0.5] * 3)
    evaluator.update(found([[0, 0, 9, 9]], [0.99], [1], np.zeros((0, 6), np.float32)))
    assert evaluator.compute()["ap/b"] == pytest.approx(0.5)  # a false one in an empty image


def test_confusion_of_classes_by_hand():
    evaluator = DetectionEvaluator(("a", "b"))
    boxes = [[10, 10, 30, 30], [11, 10, 30, 30], [50, 50, 90, 90], [1, 1, 7, 7], [99, 0, 120, 9]]
    evaluator.update(found(boxes, [0.5, 0.9, 0.8, 0.7, 0.2], [0, 1, 1, 1, 0]))  # the last has too low a score
    assert evaluator.confusion().tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]  # what lies in the crowd is not counted
    evaluator.update(found([[0, 0, 9, 9]], [0.1], [0]))
    assert evaluator.confusion().tolist() == [[0, 1, 1], [0, 1, 1], [1, 0, 0]]
