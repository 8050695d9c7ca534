"""Metrics of label maps, against scikit-learn and against numbers counted by hand."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, recall_score

from jaxdino.evals.semantic import SemanticEvaluator, confusion

NAMES = ("background", "cat", "dog", "never")


def drawn(count=3, size=(6, 7)):
    """Label maps of which three quarters agree, with ignored pixels in the first; class 3 occurs nowhere."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (count, *size)).astype(np.uint8)
    prediction = np.where(rng.random(mask.shape) < 0.75, mask, rng.integers(0, 3, mask.shape)).astype(np.uint8)
    mask[0, :2] = 255
    return mask, prediction


def test_metrics_of_a_split_are_those_of_scikit_learn():
    mask, prediction = drawn()
    evaluator = SemanticEvaluator(NAMES)
    evaluator.update({"prediction": prediction[:2], "mask": mask[:2]})
    evaluator.update({"prediction": prediction[2:], "mask": mask[2:]})
    found = evaluator.compute()
    true, guess = mask[mask != 255], prediction[mask != 255]
    iou = jaccard_score(true, guess, labels=[0, 1, 2], average=None)
    assert [found[f"iou/{name}"] for name in NAMES[:3]] == pytest.approx(list(iou))
    assert found["miou"] == pytest.approx(iou.mean())
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(true, guess))
    assert found["mean_accuracy"] == pytest.approx(recall_score(true, guess, average="macro"))
    assert evaluator.absent == ("never",) and "iou/never" not in found and evaluator.invented == ()
    assert found["dice"] == pytest.approx(f1_score(true, guess, average="macro"))
    assert evaluator.names[:5] == ("miou", "pixel_accuracy", "mean_accuracy", "dice", "loss")
    assert evaluator.names[5:] == tuple(f"iou/{name}" for name in NAMES) and np.isnan(found["loss"])


def test_metrics_by_hand():
    """3 pixels of background, 2 found; 2 of cat, both found; a class that is predicted only counts as 0."""
    evaluator = SemanticEvaluator(NAMES)
    evaluator.update({"mask": [np.array([[0, 0, 0, 1, 1, 255]])], "prediction": [np.array([[0, 0, 2, 1, 1, 2]])]})
    found = evaluator.compute()
    assert found["iou/background"] == pytest.approx(2 / 3) and found["iou/cat"] == 1 and found["iou/dog"] == 0
    assert found["miou"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["mean_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["pixel_accuracy"] == pytest.approx(4 / 5)
    assert evaluator.invented == ("dog",) and evaluator.absent == ("never",)


def test_images_of_several_sizes_and_their_losses():
    evaluator = SemanticEvaluator(NAMES)
    masks = [np.array([[0, 255]]), np.array([[1], [1], [2]], np.uint8)]
    evaluator.update({"mask": masks, "prediction": [one * 0 for one in masks], "loss": np.array([0.5, 3.5])})
    assert evaluator.compute()["loss"] == pytest.approx(1.0)  # 4 over 4 pixels
    np.testing.assert_array_equal(evaluator.matrix[:, 0], [1, 2, 1, 0])


def test_a_split_without_pixels():
    evaluator = SemanticEvaluator(NAMES)
    evaluator.update({"mask": np.full((1, 2, 2), 255), "prediction": np.zeros((1, 2, 2), int)})
    found = evaluator.compute()
    assert all(np.isnan(value) for value in found.values()) and len(found) == 5 and evaluator.absent == NAMES


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.array([4]), np.array([0]), "the truth has the classes 4 to 4; there are 4"),
        (np.array([0, 1]), np.array([0, 255]), "the prediction has the classes 0 to 255"),
        (np.array([-1]), np.array([0]), "the truth has the classes -1"),
        (np.zeros((2, 2)), np.zeros((1, 4)), r"the truth has shape \(2, 2\), the prediction \(1, 4\)"),
    ],
)
def test_values_that_are_no_classes(truth, prediction, message):
    with pytest.raises(ValueError, match=message):
        confusion(truth, prediction, 4)


def test_many_classes_do_not_overflow():
    classes = 250
    truth = np.arange(classes, dtype=np.uint8)
    np.testing.assert_array_equal(confusion(truth, truth[::-1], classes), np.eye(classes, dtype=int)[::-1])
