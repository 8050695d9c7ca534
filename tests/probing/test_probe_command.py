"""`jaxdino probe`: chosen without test, as scikit-learn where it is convex, put back into a model."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import NearestCentroid

import jaxdino
from convert.__main__ import main as convert
from jaxdino.core.errors import UserError
from jaxdino.data.sources import load_source
from jaxdino.evals.linear_heads import Heads
from jaxdino.extract import main as extract
from jaxdino.features.names import parts_of, pool_for
from jaxdino.features.reader import open_features
from jaxdino.predict import main as predict
from jaxdino.probe import main
from jaxdino.probing import closed_form, intervals, logistic, put_back, sets

QUICK = ["--steps", "60", "--learning_rates", "0.01", "0.1", "1", "--weight_decays", "0", "0.01"]


IMAGES = {"train": 20, "val": 8, "test": 8}
"""Images of each of the ten classes."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of some of the digits: fewer than all of them are enough here."""
    top, source = tmp_path_factory.mktemp("images"), load_source(None)
    for split, count in IMAGES.items():
        of = source.split(split)
        for label, name in enumerate(source.class_names):
            (top / split / name).mkdir(parents=True)
            for place in np.flatnonzero(of.labels == label)[:count]:
                Image.fromarray(np.asarray(of.records[place])).save(top / split / name / f"{place}.png")
    return top


@pytest.fixture(scope="module")
def features(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("features") / "digits"
    assert extract(["--weights", "dinov3_digits", "--root", str(root), "--out", str(out), "--layers", "4"]) == 0
    return out


@pytest.fixture(scope="module")
def done(features, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "out"
    flags = ["--methods", "linear", "ridge", "nearest_mean", "knn", "--seeds", "2", "--shots", "1", "--draws", "3"]
    assert (
        main(["--features", str(features), "--out", str(out), *flags, "--inputs", "cls", "cls-2+mean-1", *QUICK]) == 0
    )
    return out


@pytest.fixture(scope="module")
def digits(features):
    cache = open_features(features)
    x = cache.load("train", "cls-1")
    mean, scale = sets.standardisation(x)
    return SimpleNamespace(x=((x - mean) * scale).astype(np.float32), y=cache.labels("train"))


def test_the_summary_has_every_number_with_n_and_interval(done):
    found = json.loads((done / "summary.json").read_text())
    assert found["val/accuracy"] > 0.85 and found["test/accuracy"] > 0.85 and found["seconds"]["sweep"] > 0
    assert found["chosen"]["method"] == max(found["methods"], key=lambda m: found["methods"][m]["val"]["value"])
    for one in found["methods"].values():
        for split in ("val", "test"):
            low, high = one[split]["interval"]
            assert one[split]["n"] == 80 and low < one[split]["value"] <= high
    assert found["methods"]["linear"]["seeds"]["n"] == 2 and found["few_shot"]["1"]["knn"]["n"] == 3
    sweep = pd.read_csv(done / "sweep.csv")
    assert len(sweep[sweep["method"] == "linear"]) == 2 * 6 * 2
    best = sweep[sweep["method"] == "linear"].groupby(["input", "learning_rate", "weight_decay"])["score"].mean()
    settings = found["methods"]["linear"]["settings"]
    chosen = (found["methods"]["linear"]["input"], settings["learning_rate"], settings["weight_decay"])
    assert best.loc[chosen] == pytest.approx(best.max(), abs=1e-6)
    assert (done / "surface.png").stat().st_size > 1000


def test_the_model_with_the_head_gives_the_logits_and_accuracy_of_the_probe(done, features, root, tmp_path, capsys):
    found, cache = json.loads((done / "summary.json").read_text()), open_features(features)
    model, source = jaxdino.load(done), load_source({"name": "folder", "root": str(root)})
    test = source.split("test")
    files = [test.record_name(place) for place in range(len(test))]
    logits = np.asarray(model(model.preprocess([str(root / file) for file in files])).logits)
    measured = found["methods"][found["model"]["method"]]["test"]["value"]
    assert np.mean(logits.argmax(1) == test.labels) == pytest.approx(measured)
    with np.load(done / "heads" / f"{found['model']['method']}.npz") as arrays:
        head = dict(arrays)
    x = np.concatenate([cache.load("test", name) for name in head["features"]], axis=1)
    np.testing.assert_allclose(logits, x @ head["kernel"] + head["bias"], atol=1e-3)
    assert predict(["--workdir", str(done), str(root / files[0])]) == 0
    assert str(test.labels[0]) in capsys.readouterr().out
    assert convert(["export", "--workdir", str(done), "--out", str(tmp_path / "exported")]) == 0


def test_standardisation_is_folded_into_the_head():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(50, 7)) * rng.uniform(0.1, 30, 7) + rng.normal(size=7) * 5).astype(np.float32)
    mean, scale = (one.astype(np.float32) for one in sets.standardisation(x))
    head = Heads(rng.normal(size=(7, 3, 1)).astype(np.float32), rng.normal(size=(3, 1)).astype(np.float32))
    kernel, bias = put_back.folded(head, mean, scale)
    wanted = ((x - mean) * scale) @ head.kernel[:, :, 0] + head.bias[:, 0]
    np.testing.assert_allclose(x @ kernel + bias, wanted, atol=1e-5, rtol=1e-5)


def test_features_that_a_pooling_holds_are_put_back():
    known = ["cls-4", "cls-3", "cls-2", "cls-1", "mean-2", "mean-1"]
    pools = {"cls": "cls", "mean-1": "mean", "mean-1+cls-1": "cls_mean", "cls-2": "cls4_mean", "mean-2": None}
    assert {name: pool_for(parts_of(name, known)) for name in pools} == pools
    kernel = np.arange(8, dtype=np.float32).reshape(4, 2)
    found = put_back.spread_out(kernel, ("mean-1", "cls-1"), "cls_mean", 2)
    np.testing.assert_array_equal(found, kernel[[2, 3, 0, 1]])
    with pytest.raises(UserError, match="'cls-9' is not in the cache"):
        parts_of("cls-9", known)


def test_logistic_regression_is_sklearns(digits):
    values = [0.001, 0.1]
    used = np.arange(len(digits.y)) % 4 > 0
    heads, converged = logistic.fit(digits.x, digits.y, values, 10, 1000, 1e-5, used)
    assert converged.all()
    for index, value in enumerate(values):
        theirs = LogisticRegression(C=value, tol=1e-6, max_iter=2000).fit(digits.x[used], digits.y[used])
        np.testing.assert_allclose(heads.kernel[:, :, index].T, theirs.coef_, atol=2e-3)
        ours = digits.x @ np.asarray(heads.kernel[:, :, index]) + np.asarray(heads.bias[:, index])
        theirs_logits = theirs.decision_function(digits.x)
        np.testing.assert_allclose(
            ours - ours.mean(1, keepdims=True), theirs_logits - theirs_logits.mean(1)[:, None], atol=0.02
        )


def test_ridge_and_nearest_mean_are_sklearns(digits):
    heads = closed_form.ridge(digits.x, digits.y, (0.5, 100.0), 10)
    for index, alpha in enumerate((0.5, 100.0)):
        theirs = RidgeClassifier(alpha=alpha).fit(digits.x.astype(np.float64), digits.y)
        np.testing.assert_allclose(heads.kernel[:, :, index].T, theirs.coef_, atol=1e-5)
        np.testing.assert_allclose(heads.bias[:, index], theirs.intercept_, atol=1e-5)
    means = closed_form.nearest_mean(digits.x, digits.y, 10)
    logits = digits.x @ means.kernel[:, :, 0] + means.bias[:, 0]
    assert (logits.argmax(1) == NearestCentroid().fit(digits.x, digits.y).predict(digits.x)).all()


def test_folds_are_stratified_and_choose_without_val(features, tmp_path):
    labels = np.array([0] * 10 + [1] * 5)
    folds = sets.stratified(labels, 5, seed=0)
    assert all(np.bincount(labels[folds == fold]).tolist() == [2, 1] for fold in range(5))
    flags = ["--out", str(tmp_path / "out"), "--folds", "3", "--inputs", "cls", "--methods", "linear", "knn", *QUICK]
    assert main(["--features", str(features), *flags]) == 0
    found = json.loads((tmp_path / "out" / "summary.json").read_text())["methods"]["linear"]
    assert found["val"]["n"] == 280 and found["folds"]["n"] == 3 and found["heads"] == 18
    assert found["folds"]["mean"] == pytest.approx(np.mean(found["folds"]["values"]))
    assert found["test"]["n"] == 80 and found["test"]["value"] > 0.8


def test_results_replace_earlier_ones_whole(features, tmp_path):
    out, only = tmp_path / "out", ["--features", str(features), "--inputs", "cls", *QUICK]
    assert main([*only, "--out", str(out), "--methods", "ridge"]) == 0
    assert (out / "best").is_dir()
    assert main([*only, "--out", str(out), "--methods", "knn"]) == 2
    assert main([*only, "--out", str(out), "--methods", "knn", "--overwrite"]) == 0
    assert not (out / "best").exists() and not (out / "heads").exists() and (out / "summary.json").exists()


def test_intervals_are_what_they_say():
    found = intervals.share(np.array([True] * 8 + [False] * 2))
    np.testing.assert_allclose(found["interval"], [0.4902, 0.9433], atol=1e-4)  # Wilson 1927, for 8 of 10
    assert intervals.spread([0.5], "folds")["interval"] is None
    assert intervals.spread([0.9, 1.0, 1.0], "folds")["interval"][1] == 1.0  # Student's t alone says 1.11


def test_folds_that_agree_do_not_claim_certainty():
    folds = intervals.spread([1.0] * 5, "folds")
    assert folds["interval"] is None and folds["reason"] == "all 5 folds agree, so their spread gives no interval"
    found = intervals.over_folds(folds, 110, shares=True)
    assert found["interval"] == pytest.approx([0.9663, 1.0], abs=1e-4) and found["how"] == "Wilson, as all folds agree"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--features", "nowhere"], "no such folder"),
        (["--inputs", "cls-7"], "not in the cache"),
        (["--methods", "linaer"], "linear"),
        (["--methods", "attentive"], "jaxdino extract --patches"),
        (["--methods", "linear", "knn", "--k", "5000"], "k=5000"),
        (["--methods", "linear", "--shots", "5000"], "shots=5000"),
        (["--k", "10", "0"], "error: --k=0 must be at least 1"),
        (["--folds", "1"], "--folds 1"),
        (["--learning_rates", "-1"], "--learning_rates"),
    ],
)
def test_bad_input_is_one_clear_line_before_any_training(features, more, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxdino.probing.selection.run", lambda *_: pytest.fail("heads were trained"))
    assert main(["--features", str(features), "--out", str(tmp_path / "out"), *QUICK, *more]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("error: ") == 1 and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused_before_any_training(features, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jaxdino.probing.selection.run", lambda *_: pytest.fail("heads were trained"))
    (tmp_path / "file").touch()
    assert main(["--features", str(features), "--out", str(tmp_path / "file" / "out"), *QUICK]) == 2
    assert "is not a writable folder" in capsys.readouterr().err
