"""Metrics of several labels, against scikit-learn and by hand."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics as sk

from jaxdino.core.errors import UserError
from jaxdino.evals.multilabel import MultilabelEvaluator, best_threshold, multilabel, per_class

N, NAMES = 40, ("a", "b", "c")


def drawn():
    rng = np.random.default_rng(1)
    labels = (rng.random((N, 3)) < (0.5, 0.2, 0.4)).astype(np.float32)
    return (rng.normal(0, 1, (N, 3)) + 1.5 * labels - 0.5).astype(np.float32), labels


def test_metrics_are_scikit_learns():
    logits, labels = drawn()
    lowest = (0.5, 0.3, 0.6)
    scores, found = expit(np.asarray(logits, np.float64)), multilabel(logits, labels, lowest)
    given = scores >= lowest
    expected = {
        "map": sk.average_precision_score(labels, scores, average="macro"),
        "macro_auc": sk.roc_auc_score(labels, scores, average="macro"),
        "macro_f1": sk.f1_score(labels, given, average="macro"),
        "micro_f1": sk.f1_score(labels, given, average="micro"),
        "loss": np.mean([sk.log_loss(labels[:, c], scores[:, c]) for c in range(3)]),
    }
    assert tuple(found) == tuple(expected) == MultilabelEvaluator.names
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-6)
    each = per_class(logits, labels, lowest, NAMES)
    recall, precision = sk.recall_score(labels, given, average=None), sk.precision_score(labels, given, average=None)
    np.testing.assert_allclose([one["recall"] for one in each.values()], recall)
    np.testing.assert_allclose([one["precision"] for one in each.values()], precision)
    assert [one["threshold"] for one in each.values()] == list(lowest)


def test_batches_add_up_and_thresholds_are_the_best():
    logits, labels = drawn()
    whole = MultilabelEvaluator(NAMES)
    for rows in (slice(0, 7), slice(7, N)):
        whole.update({"logits": logits[rows], "labels": labels[rows]})
    chosen = whole.thresholds()
    each = {f"threshold/{name}": value for name, value in zip(NAMES, chosen, strict=True)}
    assert whole.compute() == multilabel(logits, labels, chosen) | each
    for c, threshold in enumerate(chosen):
        scores, there = expit(np.asarray(logits, np.float64))[:, c], labels[:, c]
        every = [sk.f1_score(there, scores >= one) for one in scores]
        assert sk.f1_score(there, scores >= threshold) == pytest.approx(max(every))
        assert threshold not in scores


@pytest.mark.parametrize(
    ("scores", "there", "threshold"),
    [
        ([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], 0.55),  # the middle of the gap
        ([0.1, 0.9, 0.3, 0.8], [0, 1, 0, 1], 0.55),  # in any order
        ([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0], 0.3),  # equal scores are not divided
        ([0.4, 0.2], [1, 1], 0.1),  # everything
        ([0.4, 0.2], [0, 0], 0.5),  # nothing to choose from
        ([1.0, np.nextafter(1, 0)], [1, 0], 1.0),  # no number lies between these
    ],
)
def test_threshold(scores, there, threshold):
    assert best_threshold(np.array(scores), np.array(there, bool)) == pytest.approx(threshold, abs=1e-17)


def test_classes_without_images_are_left_out():
    logits, labels = drawn()
    labels[:, 1], labels[:, 2] = 0, 1
    each = per_class(logits, labels, (0.5,) * 3, NAMES)
    assert each["b"] == dict.fromkeys(("average_precision", "auc", "f1", "precision", "recall")) | {
        "threshold": 0.5,
        "images": 0,
    }
    assert each["c"]["auc"] is None and each["c"]["average_precision"] == 1
    found = multilabel(logits, labels, (0.5,) * 3)
    assert found["map"] == pytest.approx((each["a"]["average_precision"] + 1) / 2)
    assert found["macro_auc"] == each["a"]["auc"] and found["macro_f1"] == (each["a"]["f1"] + each["c"]["f1"]) / 2
    assert "macro_auc" not in multilabel(logits[:, 2:], labels[:, 2:], (0.5,))
    with pytest.raises(UserError, match="no image of the split, or none that can be read, has a class"):
        multilabel(logits, 0 * labels, (0.5,) * 3)


def test_large_logits_are_ranked_though_their_probabilities_are_all_one():
    logits, labels = np.array([[50.0], [45.0], [40.0], [0.0]]), np.array([[1.0], [0.0], [0.0], [0.0]])
    (found,) = per_class(logits, labels, [0.5], ["a"]).values()
    assert found["auc"] == found["average_precision"] == 1
