"""Figures of predictions against scikit-learn, intervals against what is known of them, groups, operating points."""

import numpy as np
import pytest
from sklearn import metrics as sk

from jaxdino.core.errors import UserError
from jaxdino.evaluation import resampled
from jaxdino.evaluation.curves import OperatingPoint, at_points
from jaxdino.evaluation.groups import groups
from jaxdino.evaluation.intervals import Resampling, bootstrap
from jaxdino.evaluation.metrics import given_classes, measured
from tests.evaluation.made_predictions import made

HOW = Resampling(100)
CASES = {"all": (), "absent": (2, 5)}


@pytest.mark.parametrize("absent", CASES.values(), ids=CASES)
def test_single_labels_are_scikit_learns(absent):
    found = made(absent=absent)
    result = measured(found, (), HOW)
    labels, said, there = found.labels, found.logits.argmax(1), np.unique(found.labels)
    value = {name: one.value for name, one in result.whole.items()}
    assert value["accuracy"] == pytest.approx(sk.accuracy_score(labels, said))
    assert value["top3_accuracy"] == pytest.approx(sk.top_k_accuracy_score(labels, found.logits, k=3, labels=range(6)))
    assert value["kappa"] == pytest.approx(sk.cohen_kappa_score(labels, said))
    assert value["matthews"] == pytest.approx(sk.matthews_corrcoef(labels, said))
    for average in ("macro", "weighted"):
        expected = sk.f1_score(labels, said, labels=there, average=average, zero_division=0)
        assert value[f"{average}_f1"] == pytest.approx(expected)
    if not absent:
        assert value["macro_auc"] == pytest.approx(sk.roc_auc_score(labels, found.odds, multi_class="ovr"))
    for place in absent:
        row = result.classes[f"c{place}"]
        assert row["sensitivity"].value is None and "no image" in row["sensitivity"].why and row["auc"].value is None
    for one in result.whole.values():
        assert one.value is None or one.low is None or one.low <= one.value <= one.high


@pytest.mark.parametrize("several", (False, True))
@pytest.mark.parametrize("absent", CASES.values(), ids=CASES)
def test_the_resampled_metrics_of_the_data_themselves_are_scikit_learns(several, absent):
    found = made(several=several, absent=absent)
    given = given_classes(found, (0.5,) * 6)
    both = resampled.joined(
        resampled.Decisions(found.there, given, several), resampled.Ranking(found.there, found.log_odds)
    )
    counts = np.random.default_rng(0).multinomial(80, [1 / 80] * 80, size=2).astype(float)
    counts[0] = 1  # the data themselves, and a resample, against scikit-learn on the repeated rows
    values = both(counts)
    for place, row in enumerate(counts.astype(int)):
        rows = np.repeat(np.arange(80), row)
        result = measured(found.rows(rows), (0.5,) * 6, Resampling(1))
        for name, one in result.whole.items():
            if one.value is not None and name in values:
                assert values[name][place] == pytest.approx(one.value), name
        for number, name in enumerate(found.names):
            for key in ("precision", "f1", "auc", "average_precision"):
                expected = result.classes[name][key].value
                assert values[f"class/{key}"][place, number] == pytest.approx(
                    np.nan if expected is None else expected, nan_ok=True
                ), (name, key)


def test_several_labels_are_scikit_learns():
    found = made(several=True)
    thresholds = (0.3, 0.5, 0.5, 0.7, 0.5, 0.5)
    result = measured(found, thresholds, HOW)
    there, given = found.there, found.odds >= thresholds
    value = {name: one.value for name, one in result.whole.items()}
    assert value["accuracy"] == pytest.approx(sk.accuracy_score(there, given))
    assert value["decision_accuracy"] == pytest.approx(1 - sk.hamming_loss(there, given))
    for average in ("macro", "micro", "weighted"):
        assert value[f"{average}_precision"] == pytest.approx(sk.precision_score(there, given, average=average))
    assert value["map"] == pytest.approx(sk.average_precision_score(there, found.odds))
    assert result.whole["top3_accuracy"].value is None and "any number" in result.whole["top3_accuracy"].why
    assert (result.confusion == sk.multilabel_confusion_matrix(there, given)).all()


def test_a_split_of_one_class_says_what_cannot_be_computed():
    found = made(absent=(0, 1, 3, 4, 5))
    whole = measured(found, (), HOW).whole
    assert whole["macro_auc"].value is None and "all images" in whole["macro_auc"].why
    assert whole["accuracy"].value is not None


def test_bootstrap_intervals_cover_a_known_share():
    rng, inside, sizes = np.random.default_rng(1), 0, []
    for seed in range(300):
        hits = (rng.random(120) < 0.3).astype(float)
        low, high = bootstrap(resampled.mean_of({"share": hits}), 120, Resampling(300, 0.9, seed))["share"]
        inside += low <= 0.3 <= high
        sizes.append(high - low)
    assert 0.85 <= inside / 300 <= 0.94  # 90 %, three standard errors of 300 trials
    assert np.mean(sizes) == pytest.approx(2 * 1.645 * np.sqrt(0.21 / 120), rel=0.05)


def test_images_of_one_patient_widen_the_interval_and_are_drawn_together():
    hits = np.repeat(np.random.default_rng(0).random(20) < 0.5, 10).astype(float)
    clusters = np.repeat(np.arange(20), 10)
    for counts in Resampling(5, clusters=clusters).counts(200):
        assert (counts.reshape(-1, 20, 10) == counts.reshape(-1, 20, 10)[:, :, :1]).all()
    spans = [
        bootstrap(resampled.mean_of({"share": hits}), 200, Resampling(500, clusters=one))["share"]
        for one in (None, clusters)
    ]
    alone, together = (float(high - low) for low, high in spans)
    assert together > 2.5 * alone  # sqrt(10) for images that say the same


def test_resamples_that_all_agree_give_no_interval():
    low, high = bootstrap(resampled.mean_of({"share": np.ones(10)}), 10, HOW)["share"]
    assert np.isnan(low) and np.isnan(high)


def test_groups_are_the_metrics_of_their_images():
    found = made()
    sites = np.where(np.arange(80) < 30, "a", np.where(np.arange(80) < 77, "b", "c"))
    section = groups(found, {"site": sites}, (), HOW)
    rows = section.values["site"]["groups"]
    right = found.logits.argmax(1) == found.labels
    assert {name: row["images"].n for name, row in rows.items()} == {"a": 30, "b": 47, "c": 3}
    for name, row in rows.items():
        assert row["accuracy"].value == pytest.approx(right[sites == name].mean())
    gap = section.values["site"]["accuracy_difference"]  # c has too few images
    assert gap.value == pytest.approx(abs(right[:30].mean() - right[30:77].mean())) and gap.n == 77


def test_operating_points_are_chosen_on_one_split_and_measured_on_another():
    val, test = made(seed=1), made(seed=2)
    points = [OperatingPoint.of(text) for text in ("sensitivity=0.8", "specificity=0.9", "probability=0.4")]
    found = at_points(points, val, test, HOW)
    for place, name in enumerate(val.names):
        row = found["sensitivity=0.8"][name]
        there, odds = val.there[:, place], val.odds[:, place]
        assert (odds[there] >= row["threshold"].value).mean() >= 0.8 > (odds[there] > row["threshold"].value).mean()
        said = test.odds[:, place] >= row["threshold"].value
        assert row["sensitivity"].value == pytest.approx(said[test.there[:, place]].mean())
        low = found["specificity=0.9"][name]["threshold"].value
        assert (odds[~there] < low).mean() >= 0.9
        assert found["probability=0.4"][name]["threshold"].value == 0.4
    for wrong in ("sensitivity=1.5", "recall=0.9", "0.9"):
        with pytest.raises(UserError, match="is not an operating point"):
            OperatingPoint.of(wrong)
