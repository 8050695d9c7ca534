"""The command on a tiny run: what it writes, and what it refuses."""

import csv
import json
import math
import re
import shutil

import pytest

import jaxdino
from jaxdino.data.sources import load_source
from jaxdino.evaluate import main
from jaxdino.evaluation import attacks, kept, robustness
from jaxdino.train.loop import run
from tests.train import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run on the digits, and beside it a list of the test images with a column `writer`."""
    place = tmp_path_factory.mktemp("evaluated") / "run"
    run(tiny.config(1, batch_size=256, data__name="digits"), place)
    with (place.parent / "writers.csv").open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "writer"])
        writer.writerows([f"test[{row}]", "ab"[row % 2]] for row in range(400))
    return place


@pytest.fixture(scope="module")
def report(folder):
    """The folder of its report, and what it holds."""
    flags = [
        "--parts",
        "metrics",
        "--group",
        "writer",
        "--resample_by",
        "writer",
        "--group_file",
        str(folder.parent / "writers.csv"),
    ]
    assert main(["--workdir", str(folder), "--resamples", "100", *flags]) == 0
    return folder / "evaluation", json.loads((folder / "evaluation" / "evaluation.json").read_text())


def test_the_figures_are_those_of_the_run_with_n_and_interval(folder, report):
    found, summary = report[1], json.loads((folder / "summary.json").read_text())
    whole = found["metrics"]["whole"]
    for ours, theirs in {
        "accuracy": "accuracy",
        "macro_f1": "macro_f1",
        "balanced_accuracy": "balanced_accuracy",
    }.items():
        assert whole[ours]["value"] == pytest.approx(summary[f"test/{theirs}"]), ours
    for name, one in whole.items():
        assert one["n"] == 359 and ("why" in one if one["value"] is None else "interval" in one), name
    assert sum(map(sum, found["metrics"]["confusion"]["counts"])) == 359 and not found["optimistic"]
    sites = found["groups"]["writer"]["groups"]
    assert {name: row["images"]["value"] for name, row in sites.items()} == {"a": 180, "b": 179}


def test_the_page_holds_all_it_shows(report):
    place, _ = report
    page, text = (place / "evaluation.html").read_text(), (place / "evaluation.md").read_text()
    assert "default-src 'none'" in page and not re.search(r"(src|href)=\"(?!data:image/|#)", page)
    assert "Confusion matrix" in page and "| accuracy |" in text and "By writer" in text


def test_a_kept_calibration_is_measured_and_used_by_predict(folder, tmp_path, capsys):
    import jaxdino
    from jaxdino.data.sources import load_source

    source = load_source(None)
    before = jaxdino.load(folder).predict(list(source.split("test").records[:20]), topk=10)
    flags = ["--parts", "calibration", "--resamples", "100", "--out", str(tmp_path / "out")]
    assert main(["--workdir", str(folder), "--calibrate", "temperature", *flags]) == 0
    assert "T = " in capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["calibration"]
    model = jaxdino.load(folder)
    raw, kept = (found["methods"][name]["nll"]["value"] for name in ("not calibrated", "temperature"))
    assert found["kept"] == "temperature" and kept < raw  # an almost untrained head is far from certain enough
    after = model.predict(list(source.split("test").records[:20]), topk=10)
    scale = model.card.calibration.scale[0]
    for old, new in zip(before, after, strict=True):
        assert [name for name, _ in old] == [name for name, _ in new]
        gaps = [math.log(one[0][1] / one[9][1]) for one in (old, new)]
        assert gaps[1] == pytest.approx(scale * gaps[0], rel=1e-4)
    assert main(["--workdir", str(folder), "--calibrate", "none", *flags]) == 0
    assert jaxdino.load(folder).card.calibration is None


def test_views_are_averaged_as_in_predict(folder, tmp_path):
    how = ["--parts", "metrics", "--resamples", "100", "--split", "val", "--out", str(tmp_path)]
    assert main(["--workdir", str(folder), "--tta", "flip,zoom", *how]) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    model, val = jaxdino.load(folder), load_source(dict(name="digits")).split("val")
    given = model.predict(list(val.records), topk=1, tta="flip,zoom")
    right = [model.class_names.index(one[0][0]) == label for one, label in zip(given, val.labels, strict=True)]
    assert found["metrics"]["whole"]["accuracy"]["value"] == pytest.approx(sum(right) / len(right))
    assert found["tta"] == ["flip", "zoom"] and "mean over views" in (tmp_path / "evaluation.html").read_text()


def test_a_stopped_evaluation_goes_on_and_gives_the_same(folder, tmp_path, monkeypatch, capsys):
    real, calls = robustness.corrupted, []
    monkeypatch.setattr(robustness, "CORRUPTIONS", {name: None for name in ("gaussian_noise", "brightness")})
    monkeypatch.setattr(attacks, "ATTACKS", attacks.ATTACKS[:2])
    flags = ["--workdir", str(folder), "--parts", "robustness,attacks", "--most_robust", "12", "--batch_size", "4"]
    flags += ["--resamples", "100", "--resample_by", "writer", "--group_file", str(folder.parent / "writers.csv")]

    def counted(*given):
        calls.append(given[0])
        if len(calls) == 25:  # in the third batch
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(robustness, "corrupted", counted)
    out = tmp_path / "out"
    assert main([*flags, "--out", str(out)]) == 130
    names = ["manifest.json", "robustness-000000.npz", "robustness-000001.npz"]
    assert sorted(file.name for file in (out / kept.FOLDER).iterdir()) == names
    shutil.copytree(out, tmp_path / "stale")
    assert main([*flags, "--out", str(out)]) == 0 and len(calls) == 25 + 10
    assert "2 batches are taken" in capsys.readouterr().err and not (out / kept.FOLDER).exists()
    assert main([*flags, "--out", str(tmp_path / "stale"), "--seed", "3"]) == 0 and len(calls) == 25 + 10 + 30
    assert "had another seed: its batches are not used" in capsys.readouterr().err
    assert main([*flags, "--out", str(tmp_path / "whole")]) == 0
    first, second = (json.loads((at / "evaluation.json").read_text()) for at in (out, tmp_path / "whole"))
    assert first == second
    of_groups, attack = first["robustness"]["mce"], next(iter(first["attacks"]["attacks"].values()))
    assert of_groups["n"] == 12 and "whole groups of 'writer'" in of_groups["interval"]
    for one in (attack["accuracy"], attack["loss_raised"], attack["loss"]["clean"], attack["loss"]["attacked"]):
        assert one["n"] == 12 and ("whole groups" in one["interval"] or "no interval" in one["interval"])
    assert attack["in_ball"] and attack["loss"]["attacked"]["value"] > attack["loss"]["clean"]["value"]


def test_what_cannot_be_evaluated_is_refused_before_long_work(folder, tmp_path, capsys):
    def refused(*flags: str) -> str:
        assert main(["--workdir", *map(str, flags)]) == 2
        return capsys.readouterr().err

    assert "there is no folder" in refused(tmp_path / "none")
    assert "holds no run" in refused(tmp_path)
    assert "did you mean" in refused(folder, "--parts", "metrix").lower() or "metrics" in refused(
        folder, "--parts", "x"
    )
    assert "needs --ood DIR" in refused(folder, "--parts", "ood")
    assert "--also is not read" in refused(folder, "--also", tmp_path, "--parts", "metrics")
    assert "--calibrate='platt' is not known" in refused(folder, "--calibrate", "platt")
    assert "is not a manifest" in refused(folder, "--group", "site")
    listed = str(folder.parent / "writers.csv")
    told = refused(folder, "--group", "writer", "--group_file", listed.replace("writers", "writer"))
    assert "writer.csv: there is no such file; nearest: writers.csv" in told
    assert "no column 'writers'" in refused(folder, "--group", "writers", "--group_file", listed)
    config = json.loads((folder / "config.json").read_text())
    for name in ("other", "begun"):
        (tmp_path / name).mkdir()
    config["objective"]["name"] = "distill"
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    assert "'distill'" in (told := refused(tmp_path / "other")) and "--weights" in told
    (tmp_path / "begun" / "config.json").write_text((folder / "config.json").read_text())
    assert "is not finished" in refused(tmp_path / "begun")
    assert not (folder / "none").exists()
