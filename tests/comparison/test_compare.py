"""`compare` on tiny runs: what it writes, that it resumes, what it recommends, and what it refuses."""

import csv
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import pairwise

from jaxdino.compare import main
from jaxdino.comparison import measured, running
from jaxdino.comparison.cka import linear_cka
from jaxdino.comparison.plan import PlannedRun, seeds_of
from jaxdino.comparison.recommendation import Limits, recommend
from jaxdino.comparison.statistics import Strategy, gap, over_seeds, words
from jaxdino.core.errors import UserError
from jaxdino.train.stop import Stopped
from tests.train import tiny

CONFIG = """
from tests.train import tiny
def get_config(model=None):
    made = tiny.config({epochs}, batch_size=128, early_stopping__monitor="")
    for stage in made.stages[1:]:
        stage.groups.backbone.lr = 0.1
    return made
"""


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of two tiny strategies, and its flags."""
    place = tmp_path_factory.mktemp("compared")
    for name, epochs in {"short": "1", "long": "1, 1"}.items():
        (place / f"{name}.py").write_text(CONFIG.format(epochs=epochs))
    flags = ["--configs", f"{place}/short.py,{place}/long.py", "--seeds", "1", "--out", str(place / "out")]
    flags += ["--probe_most", "60", "--in_process", "--config.writers=none"]
    assert main(flags) == 0
    return place / "out", flags


def test_the_report_has_every_run_with_spread_and_forgetting(compared):
    out, _ = compared
    found = json.loads((out / "comparison.json").read_text())
    assert found["metric"] == "val/accuracy" and len(found["runs"]) == 2 and not found["failed"]
    rows = list(csv.DictReader((out / "runs.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["finished"] * 2
    for run in found["runs"]:
        summary = json.loads((out / "runs" / run["run"] / "summary.json").read_text())
        assert run["measured"]["accuracy"] == summary["test/accuracy"]
        assert run["calibration"]["nll"]["value"] == pytest.approx(summary["test/loss"], abs=1e-4)
        first, *later = run["forgetting"]
        assert first["stage"] == "start" and first["cka"] == pytest.approx([1, 1])
        assert [row["stage"] for row in later] == [stage["name"] for stage in run["stages"]]
        assert later[0]["knn"] == first["knn"] and later[0]["cka"] == pytest.approx([1, 1])  # only the head was trained
    assert min(found["runs"][-1]["forgetting"][-1]["cka"]) < 1 - 1e-4  # the last block was trained too
    of_short = found["results"]["short"]["mean"]["val/accuracy"]
    assert of_short["n"] == 1 and of_short["interval"] == "no interval: one run"
    kept = found["forgetting"]["short"]["0"][0]["knn"]
    assert kept["value"] == found["runs"][0]["forgetting"][0]["knn"] and kept["n"] > 10 and "Wilson" in kept["interval"]
    page = (out / "comparison.html").read_text()
    assert (
        "95 % t interval" in page
        and "Recommended" in page
        and "<script" not in page
        and "http" not in page.replace("http-equiv", "")
    )


def test_the_same_command_repeats_no_run_and_measures_nothing_again(compared, monkeypatch):
    out, flags = compared
    before = (out / "comparison.json").read_text()
    monkeypatch.setattr("jaxdino.comparison.running.train", pytest.fail)
    monkeypatch.setattr("jaxdino.comparison.measured._measure", pytest.fail)
    assert main(flags) == 0
    assert (out / "comparison.json").read_text() == before
    assert not list(out.glob("runs/*/stages"))  # deleted once they are measured


def test_a_changed_setting_is_refused_before_any_run(compared, capsys):
    _, flags = compared
    assert main([*flags, "--config.optimizer.weight_decay=0.3"]) == 2
    assert "holds a run of another config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--configs", "linear,linaer"], "nearest"),
        (["--configs", "linear,linear"], "name each strategy once"),
        (["--configs", "linear,ssl"], "trains the task 'distill'"),
        (["--seeds", "some"], "--seeds some"),
        (["--max_memory", "16Gx"], "--max_memory=16Gx"),
        (["--probe_most", "0", "--probe_root", "x"], "is not read with --probe_most 0"),
    ],
)
def test_refusals(flags, words, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "out"), *flags]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_seeds():
    assert (seeds_of("2"), seeds_of("4,7"), seeds_of("4,")) == ([0, 1], [4, 7], [4])
    with pytest.raises(UserError, match="different seeds"):
        seeds_of("3,3")


def test_forgetting_without_the_models_of_stages_is_said(tmp_path, monkeypatch):
    (tmp_path / "run" / "best").mkdir(parents=True)
    (tmp_path / "run" / "best" / "model.json").write_text("{}")
    run, lines = SimpleNamespace(name="run", folder=tmp_path / "run"), []
    monkeypatch.setattr(measured, "_measure", lambda *given: {"forgetting": []})
    probe = SimpleNamespace(about=lambda: {"data": "digits"})
    for _ in range(2):  # the second time, it is read
        measured.measured(run, None, tmp_path, probe, False, lines.append)
    assert lines == ["run: no forgetting, since the models of its stages are gone; --keep_stage_models keeps them"]


def test_cka_is_that_of_centred_gram_matrices():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 7)) + 3, rng.normal(size=(50, 4))
    y[:, :2] += x[:, :2]
    centre = np.eye(50) - 1 / 50
    k, m = (centre @ pairwise.linear_kernel(one) @ centre for one in (x, y))
    assert linear_cka(x, y) == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))
    turned, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    assert linear_cka(x, 2 * x @ turned + 1) == pytest.approx(1)
    assert linear_cka(x, np.ones((50, 3))) is None


def strategy(name, values, seconds=100.0, params=1000, memory=1.0):
    """A strategy with these validation accuracies, of 400 images."""
    found = {"val_images": 400, "seconds": seconds, "trainable_params": params, "memory_gib": memory}
    each = [{"val": {"accuracy": value}} | found for value in values]
    return Strategy(name, [SimpleNamespace(run=SimpleNamespace(seed=n), found=one) for n, one in enumerate(each)])


def test_only_a_change_has_a_sign():
    assert words([0.5, 0.7], "+.3f") == "+0.600 (SD 0.141)" and words([0.5]) == "0.500"


def test_means_over_seeds_have_students_interval():
    one = over_seeds([0.9, 0.8, 0.7, 0.85])
    expected = stats.t.interval(0.95, 3, np.mean([0.9, 0.8, 0.7, 0.85]), stats.sem([0.9, 0.8, 0.7, 0.85]))
    assert one.n == 4 and (one.low, one.high) == pytest.approx(expected)
    assert over_seeds([0.5, 0.5]).low is None and over_seeds([]).why


def test_the_noise_of_a_gap_is_of_seeds_and_of_images():
    found = gap(strategy("a", (0.9, 0.8)), strategy("b", (0.7, 0.7)), "accuracy")
    of_seeds, of_images = np.var([0.2, 0.1], ddof=1) / 2, (0.85 * 0.15 + 0.7 * 0.3) / 400
    assert (found.value, found.noise) == pytest.approx((0.15, 2 * np.sqrt(of_seeds + of_images)))


def test_the_noise_of_other_metrics_is_of_seeds_alone():
    one, two = strategy("a", (0.90, 0.80, 0.85)), strategy("b", (0.70, 0.70, 0.70))
    for run in (*one.runs, *two.runs):
        run.found["val"] = {"miou": run.found["val"]["accuracy"]}
    found = gap(one, two, "miou")
    t_quantile = 4.3026527  # 97.5 % of t with two degrees of freedom
    assert (found.value, found.noise) == pytest.approx((0.15, t_quantile * np.std([0.2, 0.1, 0.15], ddof=1) / 3**0.5))
    single = [Strategy(each.name, each.runs[:1]) for each in (one, two)]
    assert gap(*single, "miou").noise is None and gap(*single, "miou").error == "noise not known"
    said = recommend(single, "miou", 100.0)
    assert said.name == "a" and "whether the gaps mean anything is not known" in said.reasons[-1]


def test_strategies_without_a_common_seed_are_compared_by_their_means():
    other = strategy("b", (0.7, 0.6))
    found = gap(strategy("a", (0.9,)), Strategy("b", other.runs[1:]), "accuracy")
    assert (found.value, found.seeds) == (pytest.approx(0.3), 0) and not found.means_nothing


def test_the_decision_tree():
    best = strategy("full", (0.90, 0.91), seconds=1000, params=9000, memory=8)
    equal = strategy("lora", (0.89, 0.91), seconds=500, params=300)
    fewest = strategy("linear", (0.89, 0.90), seconds=600, params=100)
    worse = strategy("short", (0.70, 0.71), seconds=1, params=1)

    def chosen(*some, images=100.0, limits=None):
        return recommend(some, "accuracy", images, limits or Limits()).name

    assert chosen(best, worse) == "full"
    assert chosen(best, equal, fewest, worse) == "lora"  # the fastest of the equals
    assert chosen(best, equal, fewest, worse, images=5) == "linear"  # the fewest parameters
    assert chosen(best, strategy("slow", (0.9, 0.9), seconds=950)) == "full"  # nothing is saved
    assert chosen(best, worse, limits=Limits(memory_gib=4)) == "short"
    assert chosen(best, limits=Limits(seconds=1)) is None


def test_of_errors_the_lowest_is_the_best():
    few, many = strategy("few", (0.30, 0.31)), strategy("many", (0.50, 0.52))
    for one in (*few.runs, *many.runs):
        one.found["val"] = {"abs_rel": one.found["val"]["accuracy"]}
    found = recommend((many, few), "abs_rel", 100.0)
    assert found.name == "few" and found.gaps["many"].value == pytest.approx(0.205) and "lowest" in found.reasons[0]


def test_other_tasks_are_compared_without_calibration(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(tiny.__file__).parent))  # it imports `tiny` by its own name
    (tmp_path / "masks.py").write_text(
        "from tests.train import tiny_semantic\ndef get_config(model=None):\n    return tiny_semantic.config()\n"
    )
    flags = ["--seeds", "1", "--out", str(tmp_path / "out"), "--probe_most", "0", "--in_process"]
    assert main(["--configs", f"{tmp_path}/masks.py", *flags, "--config.writers=none"]) == 0
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["metric"] == "val/miou" and "calibration" not in found and found["recommendation"]["name"] == "masks"
    (run,) = found["runs"]
    assert run["measured"]["miou"] >= 0 and run["images"] > 0


assert tiny.SPEC  # the configs above name this model


def test_sigterm_ends_the_comparison_even_if_the_run_was_finished_by_then(monkeypatch):
    passed = []

    class Child:
        def wait(self):
            os.kill(os.getpid(), signal.SIGTERM)
            return 0

        def terminate(self):
            passed.append("SIGTERM")

    monkeypatch.setattr(running.subprocess, "Popen", lambda line: Child())
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        running.train(PlannedRun("linear", 0, "linear", (), Path("x")), None)
    assert passed == ["SIGTERM"] and signal.getsignal(signal.SIGTERM) is before
