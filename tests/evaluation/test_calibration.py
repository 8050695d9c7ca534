"""Calibration: fits against scikit-learn and known temperatures, measures by hand, and what predict makes of it."""

import numpy as np
import pytest
import sklearn
from scipy.special import expit, softmax
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV

from convert.labels import calibration as noted_calibration
from jaxdino.core.errors import UserError
from jaxdino.core.intervals import wilson
from jaxdino.evaluation.calibration.fitting import FITS, doubt, fitted, flat
from jaxdino.evaluation.calibration.measures import measures, reliability
from jaxdino.evaluation.intervals import Resampling
from jaxdino.models import heads
from jaxdino.models.heads.calibration import Calibration
from jaxdino.models.heads.choice import AboveThresholds, MostProbable
from jaxdino.models.heads.linear import LinearHeadConfig

HOW = Resampling(100)


def drawn(several: bool, power: float, n: int = 20_000, classes: int = 4):
    """Logits, and labels that have the probabilities of the logits times `power`."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, classes)) * 3
    if several:
        return logits, rng.random((n, classes)) < expit(logits * power)
    return logits, (np.cumsum(softmax(logits * power, axis=1), axis=1) < rng.random((n, 1))).sum(axis=1)


class Given(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose scores are its inputs."""

    def __init__(self, classes=4):
        self.classes = classes

    def fit(self, x, y):
        self.classes_ = np.arange(self.classes)
        return self

    def decision_function(self, x):
        return x

    def predict(self, x):
        return x.argmax(axis=1)


@pytest.mark.parametrize("several", (False, True))
def test_a_known_temperature_is_found(several):
    logits, labels = drawn(several, 0.4)
    assert 1 / fitted("temperature", logits, labels).scale[0] == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("several", (False, True))
def test_vector_scaling_finds_scales_and_shifts(several):
    scale, shift = np.array([0.5, 1, 1.5, 2]), np.array([1, -1, 0.5, -0.5])
    logits = np.random.default_rng(1).normal(size=(40_000, 4)) * 2
    scores, rng = logits * scale + shift, np.random.default_rng(2)
    labels = (
        rng.random(scores.shape) < expit(scores)
        if several
        else (np.cumsum(softmax(scores, axis=1), axis=1) < rng.random((len(scores), 1))).sum(axis=1)
    )
    found = fitted("vector", logits, labels)
    assert np.allclose(found.scale, scale, rtol=0.06)
    gap = np.array(found.shift) - shift
    assert np.allclose(gap if several else gap - gap.mean(), 0, atol=0.07)  # softmax ignores a common shift


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8),
    reason="scikit-learn calibrates by temperature since 1.8",
)
def test_the_temperature_is_scikit_learns():
    from sklearn.frozen import FrozenEstimator

    logits, labels = drawn(False, 0.7, 300)
    theirs = CalibratedClassifierCV(FrozenEstimator(Given().fit(logits, labels)), method="temperature")
    theirs.fit(logits, labels)
    ours = fitted("temperature", logits, labels).odds(logits, several=False)
    np.testing.assert_allclose(ours, theirs.predict_proba(logits), atol=1e-6)


def test_isotonic_is_scikit_learns_one_against_the_rest():
    from sklearn.frozen import FrozenEstimator

    logits, labels = drawn(False, 0.7, 150)
    found = fitted("isotonic", logits, labels)
    theirs = CalibratedClassifierCV(FrozenEstimator(Given().fit(logits, labels)), method="isotonic")
    odds = softmax(logits, axis=1)  # scikit-learn calibrates the scores that it gets
    theirs.fit(odds, labels)
    np.testing.assert_allclose(found.odds(logits, several=False), theirs.predict_proba(odds), atol=1e-9)
    few = fitted("isotonic", logits, np.zeros(150, int) + (np.arange(150) < 75))  # two classes have no image
    assert few.inputs[2] == few.outputs[3] == (0.0, 1.0)


def test_measures_are_scikit_learns_and_ece_by_hand():
    logits, labels = drawn(False, 1.0, 200)
    odds = softmax(logits, axis=1)
    found = {name: one.value for name, one in measures(odds, labels, HOW).items()}
    assert found["nll"] == pytest.approx(sk.log_loss(labels, odds, labels=range(4)))
    assert found["brier"] == pytest.approx(((odds - np.eye(4)[labels]) ** 2).sum(axis=1).mean())
    sure, right = odds.max(axis=1), odds.argmax(axis=1) == labels
    width = mass = 0.0
    for low in range(15):
        rows = (sure >= low / 15) & (sure < (low + 1) / 15)
        width += rows.sum() / 200 * abs(sure[rows].mean() - right[rows].mean()) if rows.any() else 0
    for rows in np.array_split(np.argsort(sure, kind="stable"), 15):
        mass += abs(sure[rows].sum() - right[rows].sum()) / 200
    assert found["ece_width"] == pytest.approx(width)
    assert found["ece_mass"] == pytest.approx(mass, abs=0.01)  # array_split makes the first parts larger by one
    bins = reliability(odds, labels, Resampling())
    assert sum(one["n"] for one in bins) == 200
    for one in bins:
        assert (one["low"], one["high"]) == wilson(round(one["accuracy"] * one["n"]), one["n"], 0.95)
    grouped = reliability(odds, labels, Resampling(clusters=np.arange(200) // 4))
    assert {one["low"] for one in grouped} == {None} and [one["n"] for one in grouped] == [one["n"] for one in bins]


def test_ece_of_four_images_and_of_decisions():
    odds = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    labels = np.array([0, 1, 1, 0])
    found = measures(odds, labels, HOW)
    # 0.9 twice, half right: 2 x |0.9 - 0.5|; 0.8 right: 0.2; 0.6 right: 0.4
    assert found["ece_width"].value == pytest.approx((0.8 + 0.2 + 0.4) / 4) and found["ece_width"].n == 4
    each = measures(np.array([[0.95, 0.0], [0.95, 0.0]]), np.array([[True, False], [False, False]]), HOW)
    assert each["ece_width"].value == pytest.approx((2 * 0.95 - 1) / 4)
    exact = measures(np.array([[1.0, 0.0]] * 3), np.array([0, 0, 1]), HOW)["nll"].value  # infinite, but for the clip
    assert exact == pytest.approx(sk.log_loss([0, 0, 1], [[1.0, 0.0]] * 3, labels=[0, 1]))


def test_predictions_use_the_calibration():
    scores, cold = np.array([2.0, 1.0, 0.0]), Calibration("temperature", (2.0,))
    assert [i for i, _ in MostProbable(cold)(scores, 3)] == [0, 1, 2]
    assert MostProbable(cold)(scores, 1)[0][1] == pytest.approx(softmax(2 * scores)[0])
    flat = Calibration("isotonic", inputs=((0.0, 1.0),) * 3, outputs=((0.5, 0.5),) * 3)
    assert [i for i, _ in MostProbable(flat)(scores, 3)] == [0, 1, 2]  # as probable as each other: the scores decide
    chosen = AboveThresholds((0.85, 0.7, 0.7), cold)(scores, 3)  # the thresholds are for the probabilities before
    assert chosen == [(0, pytest.approx(expit(4))), (1, pytest.approx(expit(2)))]
    assert len(AboveThresholds((0.9,) * 3, cold, calibrated=True)(scores, 3)) == 1
    none = Calibration("isotonic", inputs=((0.0, 1.0),) * 3, outputs=((0.0, 0.0),) * 3)
    assert none.odds(scores, several=False) == pytest.approx(1 / 3)


def test_images_that_are_all_right_are_no_ground_for_a_fit():
    logits = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.5]])
    assert "all 3 validation images" in doubt(logits, np.array([0, 1, 1])) and not doubt(logits, np.array([0, 1, 0]))
    assert not doubt(logits, logits > 0.5)


def test_a_temperature_without_end_is_told():
    logits = np.random.default_rng(0).normal(size=(40, 3))
    assert "no better than chance" in flat(fitted("temperature", logits, np.argmin(logits, axis=1)))
    assert not flat(fitted("temperature", logits, np.argmax(logits, axis=1)))
    assert not flat(fitted("vector", logits, np.argmin(logits, axis=1)))


@pytest.mark.parametrize("method", FITS)
def test_a_head_keeps_its_calibration_in_json_and_in_exports(method):
    logits, labels = drawn(False, 0.5, 60)
    head = LinearHeadConfig(4, "cls", (), fitted(method, logits, labels))
    again = heads.from_json(heads.to_json(head))
    assert again == head and hash(again) == hash(head)

    class Noted:
        notes, config = {"head": heads.to_json(head)}, None

    assert noted_calibration(Noted, 4) == head.calibration and noted_calibration(Noted, 3) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "platt"}, "is not known"),
        ({"method": "vector", "scale": [1.0]}, "takes 4"),
        ({"method": "isotonic", "inputs": [[0.0]], "outputs": [[0.0, 1.0]]}, "as many values"),
        ({"scale": [float("nan")]}, "is no number"),
        ({"wrong": 1}, "has no field 'wrong'"),
        (3, "must be an object"),
    ],
)
def test_a_damaged_calibration_is_refused(fields, said):
    with pytest.raises(UserError, match=said):
        heads.from_json({"name": "linear", "num_classes": 4, "calibration": fields})
