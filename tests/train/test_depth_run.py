"""Whole runs of depth: strategies, exact resumption, heads, files, and the command on their models."""

import json

import numpy as np
import pytest
import tifffile
import tiny_semantic
from measured import losses
from midway import Midway
from PIL import Image
from tiny_depth import config

import jaxdino
from convert.store import load_card, load_model
from jaxdino import depth, evaluate, predict
from jaxdino.api.windowed import Whole
from jaxdino.core.errors import UserError
from jaxdino.core.sharding import make_mesh
from jaxdino.data import scene_files
from jaxdino.data.depth_field import DepthMap
from jaxdino.data.record import Split
from jaxdino.data.sources import load_source
from jaxdino.evals import sliding, strips
from jaxdino.evals.depth import DepthEvaluator
from jaxdino.evals.median_depth import median_map, of_medians
from jaxdino.models.heads.depth import DepthDPTHeadConfig, DepthLinearHeadConfig
from jaxdino.train import loop
from jaxdino.train.setup import prepare

DRAWN = True

SHAPE = '{"depths": [1, 1, 1, 1], "widths": [16, 32, 64, 128], "stem": 8}'


def made():
    return config("full", steps=20, checkpoint__every_steps=10)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a run that trains everything, and what a kill after its eleventh step would leave."""
    root = tmp_path_factory.mktemp("depth")
    loop.run(made(), root / "run", Midway(root / "run", {11: root / "killed"}, saved=10))
    return root / "run", root / "killed"


def test_it_learns_and_reports_at_the_maps_own_size(runs):
    summary = json.loads((runs[0] / "summary.json").read_text())
    first, best = (summary["stages"][0][name] for name in ("val/abs_rel", "val/rmse"))
    assert 0 < first < 1.2 and 0 < best < 4
    assert (runs[0] / "depth.png").stat().st_size > 1000 and (runs[0] / "val_abs_rel.png").is_file()
    test = load_source(dict(name="few_spheres"), "depth").split("test")
    model, again = jaxdino.load(runs[0]), DepthEvaluator(0.001, 8.75)
    assert model.card.head == DepthLinearHeadConfig(1, 1, "blocks", 0.001, 8.75, bins=16)
    found = model.depth(list(test.records))
    assert found[0].shape == (64, 64) and found[0].dtype == np.float32
    again.update({"prediction": found, "depth": test.fields["depth"]})
    for name, value in again.compute().items():
        assert summary[f"test/{name}"] == pytest.approx(value, rel=2e-3), name


def test_an_evaluation_has_the_runs_figures_with_intervals(runs, tmp_path):
    assert evaluate.main(["--workdir", str(runs[0]), "--out", str(tmp_path), "--resamples", "100"]) == 0
    found, summary = (json.loads(file.read_text()) for file in (tmp_path / "evaluation.json", runs[0] / "summary.json"))
    for name, one in found["metrics"]["whole"].items():
        assert one["value"] == pytest.approx(summary[f"test/{name}"], rel=2e-3), name
        assert one["low"] <= one["value"] <= one["high"] and one["n"] == found["images"]
    scores = [one["score"] for one in found["errors"]]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0


def test_killed_and_started_again_the_result_is_bit_identical(runs, capsys):
    loop.run(made(), runs[1])
    assert "resuming after step 10" in capsys.readouterr().out
    (card, _), (other, _) = (load_model(folder / "best") for folder in runs)
    assert card.digest == other.digest


def test_the_median_of_the_training_maps_is_a_reference(runs):
    split = Split("train", [None] * 3, {"depth": [np.full((2, 4), depth, np.float32) for depth in (1, 2, 6)]})
    split.fields["depth"][2][:, 2:] = 0
    want = np.repeat([[2.0, 1.5]], 32, axis=1)
    np.testing.assert_array_equal(median_map(split, 99), np.repeat(want, 64, axis=0))
    assert of_medians(split, split, 99, DepthEvaluator(0.1, 9))["abs_rel"] == pytest.approx((0.75 + 0.125 + 2 / 3) / 3)
    lines = json.loads((runs[0] / "summary.json").read_text())["result"]
    assert any("(median of training maps)" in line for line in lines)


def test_four_devices_equal_one(runs, all_devices, tmp_path):
    loop.run(made(), tmp_path)
    assert make_mesh().size == 4 and len(losses(runs[0])) == 20
    np.testing.assert_allclose(losses(tmp_path)[:6], losses(runs[0])[:6], rtol=2e-4)  # later ones add up rounding


def test_lower_errors_are_better(runs):
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    values = [line["val/abs_rel"] for line in lines if "val/abs_rel" in line]
    (row,) = json.loads((runs[0] / "summary.json").read_text())["stages"]
    assert len(values) > 1 and row["val/abs_rel"] == pytest.approx(min(values), abs=1e-6)


def test_what_each_strategy_trains():
    rows = {name: set(prepare(config(name), lambda _: None).parts[0].plan.trainable) for name in tiny_semantic.RULES}
    head = {"head.conv_depth.kernel", "head.conv_depth.bias"}
    assert rows["linear"] == head and head < rows["lora"] and head < rows["last"] < rows["full"]


def test_the_decoder_on_feature_maps_in_windows(tmp_path):
    changes = dict(objective__head="dpt", objective__short_side=0, objective__max_depth=10.0)
    made = config("full", steps=1, **changes)
    made.model.name = made.model.configured_for = "resnet18"
    made.model.shape = SHAPE
    made.data.image_size = 32
    loop.run(made, tmp_path)
    card = load_card(tmp_path / "best")
    assert card.source["short_side"] == 0 and card.gives_depth
    assert card.head == DepthDPTHeadConfig(1, 1, "stages", 0.001, 10.0, width=8, readout=False)
    (found,) = jaxdino.load(tmp_path).depth([np.zeros((40, 70, 3), np.uint8)])
    assert found.shape == (40, 70) and np.isfinite(found).all()


def test_the_command_writes_maps_that_are_read_again(runs, tmp_path, capsys):
    image = load_source(dict(name="few_spheres"), "depth").split("test").records[0]
    (tmp_path / "in").mkdir()
    Image.fromarray(image).resize((96, 48)).save(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("no image")
    given = ["--workdir", str(runs[0]), str(tmp_path / "in")]
    assert depth.main([*given, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "1 depth maps" in said.err and "1 of 2 images could not be read" in said.err
    (metres,) = jaxdino.load(runs[0]).depth([str(tmp_path / "in/a.png")])
    again = DepthMap(str(tmp_path / "out/a.png"))(2**20)
    assert np.abs(again - metres).max() <= 0.5e-3 + 1e-6  # half a millimetre, and the rounding of float32
    with Image.open(tmp_path / "out/overlays/a.png") as overlay:
        assert overlay.size == (192, 48)
    assert depth.main([*given, "--out", str(tmp_path / "out")]) == 2
    assert depth.main([*given, "--out", str(tmp_path / "far"), "--per_metre", "10000"]) == 2
    assert predict.main(["--workdir", str(runs[0]), str(tmp_path / "in/a.png")]) == 2
    errors = capsys.readouterr().err
    assert "is not an empty folder" in errors and "give 7.49e+03 or less, or --npy" in errors
    assert "jaxdino.depth` and `model.depth` give its depth maps" in errors


def test_a_scene_is_measured_in_strips_as_if_it_were_held(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sliding, "TILE", 64)
    monkeypatch.setattr(strips, "TILE", 64)
    monkeypatch.setattr(scene_files, "SIDE", 64)
    scene = np.random.default_rng(0).integers(0, 256, (150, 190, 3), np.uint8)
    np.save(tmp_path / "scene.npy", scene)
    given = ["--workdir", str(runs[0]), "--max_pixels", "9000", "--short_side", "0", str(tmp_path / "scene.npy")]
    model = jaxdino.load(runs[0])
    (want,) = model.per_pixel([scene], 8, None, "depth", Whole(0), model.metres)
    assert depth.main([*given, "--out", str(tmp_path / "out")]) == 0
    figures = [float(one) for one in capsys.readouterr().out.split("\t")[1:]]
    assert figures == pytest.approx(np.percentile(want, (0, 50, 100)).tolist(), abs=2e-3)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/scene.tif"), np.rint(want.astype(np.float64) * 1000))
    assert depth.main([*given, "--out", str(tmp_path / "metres"), "--npy", "--no_overlays"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "metres/scene.npy"), want)


def test_the_range_of_trained_weights_is_kept(runs, tmp_path):
    more = config("linear", steps=1, model__weights=str(runs[0]))
    assert prepare(more, lambda _: None).task.own_head.max_depth == 8.75
    more.objective.max_depth = 20.0
    with pytest.raises(UserError, match=r"max_depth=20, but the head of the weights reaches 8.75 m"):
        prepare(more, lambda _: None)
