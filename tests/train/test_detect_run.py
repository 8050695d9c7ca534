"""Whole runs of detection: strategies, exact resumption, devices, files, and the commands on their models."""

import json

import numpy as np
import pytest
import tiny_detect
from measured import losses
from midway import Midway
from PIL import Image
from tiny_detect import config

import jaxdino
from convert.store import load_model
from jaxdino import detect, evaluate, predict
from jaxdino.core.errors import UserError
from jaxdino.core.sharding import make_mesh
from jaxdino.data.sources import load_source
from jaxdino.models.heads.detr import DETRHeadConfig
from jaxdino.models.heads.fcos import FCOSHeadConfig
from jaxdino.train import loop
from jaxdino.train.setup import prepare

DRAWN = True


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a run of four steps that trains everything, and what a kill after its third step would leave."""
    root = tmp_path_factory.mktemp("detect")
    loop.run(made(), root / "run", Midway(root / "run", {3: root / "killed"}, saved=2))
    return root / "run", root / "killed"


@pytest.fixture
def whole(runs):
    return runs[0]


def made():
    return config("full", steps=4, checkpoint__every_steps=2, ema_decay=0.9)


def test_killed_and_started_again_the_result_is_bit_identical(runs, capsys):
    loop.run(made(), runs[1])
    assert "resuming after step 2" in capsys.readouterr().out
    (card, _), (other, _) = (load_model(folder / "best") for folder in runs)
    assert card.digest == other.digest and card.head == FCOSHeadConfig(15, 1, "patches", (2, 4, 8, 16), 8, 1)


def test_what_a_run_leaves(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert summary.keys() >= {"test/map", "test/map50", "test/ap/red circle"}
    assert all((whole / name).stat().st_size > 1000 for name in ("detections.png", "precision_recall.png"))


def test_an_evaluation_has_the_runs_figures_with_intervals(whole, tmp_path):
    assert evaluate.main(["--workdir", str(whole), "--out", str(tmp_path), "--resamples", "100"]) == 0
    found, summary = (json.loads(file.read_text()) for file in (tmp_path / "evaluation.json", whole / "summary.json"))
    for name, one in found["metrics"]["whole"].items():
        assert one["value"] == pytest.approx(summary[f"test/{name}"], abs=2e-3), name
        assert one["n"] == found["images"] and "interval" in one
    assert found["metrics"]["classes"].keys() == set(found["classes"]) and found["errors"]


def test_four_devices_equal_one(whole, all_devices, tmp_path):
    loop.run(made(), tmp_path)
    assert make_mesh().size == 4 and len(losses(whole)) >= 4
    np.testing.assert_allclose(losses(tmp_path), losses(whole), rtol=2e-4)


@pytest.mark.slow
def test_queries_as_the_second_kind(tmp_path):
    given = dict(head="detr", queries=24, layers=1, width=8, mosaic=0.5, denoising=8)
    loop.run(config("full", **{f"objective__{name}": value for name, value in given.items()}), tmp_path)
    card, _ = load_model(tmp_path / "best")
    assert card.head == DETRHeadConfig(15, 1, "patches", 24, 1, 8)
    image = load_source(dict(name="shapes"), "boxes").split("test").records[0]
    (objects,) = jaxdino.load(tmp_path).detect([image], threshold=0.0)
    assert len(objects.boxes) == 100 and (objects.boxes >= 0).all()
    assert "test/map" in json.loads((tmp_path / "summary.json").read_text())


def test_what_each_strategy_trains():
    rows = {name: set(prepare(config(name), lambda _: None).parts[0].plan.trainable) for name in tiny_detect.RULES}
    head = {path for path in rows["head"] if path.startswith("head.")}
    assert head == rows["head"] and {"head.scales", "head.cls_out.kernel", "head.pyramid.coarser.bias"} < head
    assert head < rows["lora"] and head < rows["last"] < rows["full"]


def test_the_commands(whole, tmp_path, capsys, monkeypatch):
    image = load_source(dict(name="shapes"), "boxes").split("test").records[0]
    (tmp_path / "in").mkdir()
    Image.fromarray(image).resize((96, 48)).save(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("no image")
    words = [str(tmp_path / "in"), "--workdir", str(whole), "--out", str(tmp_path / "out"), "--threshold", "0.01"]
    assert detect.main(words) == 1
    shown = capsys.readouterr()
    assert "skipped" in shown.err and "b.png" in shown.err
    found = json.loads((tmp_path / "out/detections.json").read_text())
    assert [(one["file_name"], one["width"], one["height"]) for one in found["images"]] == [("a.png", 96, 48)]
    assert shown.out.count("\n") == len(found["annotations"]) > 0
    with Image.open(tmp_path / "out/overlays/a.png") as overlay:
        assert overlay.size == (96, 48)
    (objects,) = jaxdino.load(whole).detect([str(tmp_path / "in/a.png")], threshold=0.01)
    assert (
        len(objects.boxes) == len(found["annotations"])
        and objects.names[0] in load_source({"name": "shapes"}, "boxes").class_names
    )
    assert (objects.boxes >= 0).all() and (objects.boxes <= [96, 48, 96, 48]).all()
    words[words.index("--out") + 1] = str(tmp_path / "parts")
    monkeypatch.setattr(detect, "BLOCK", 8)
    for number in range(16):  # in two blocks, with a.png and b.png
        Image.fromarray(image).resize((40 + number, 48)).save(tmp_path / "in" / f"c{number:02d}.png")
    assert detect.main([*words, "--shard", "2/2"]) == 0 and detect.main([*words, "--shard", "1/2"]) == 1
    shared = (tmp_path / "parts/detections.json").read_bytes()
    words[words.index("--out") + 1] = str(tmp_path / "alone")
    assert detect.main(words) == 1 and (tmp_path / "alone/detections.json").read_bytes() == shared
    assert len(list((tmp_path / "parts/overlays").iterdir())) == 17 and not (tmp_path / "parts.parts").exists()
    words[words.index("--out") + 1] = str(tmp_path / "out")
    capsys.readouterr()
    first = found["annotations"][0]["bbox"]
    np.testing.assert_allclose([first[0] + first[2], first[1] + first[3]], objects.boxes[0, 2:], atol=0.02)
    (tmp_path / "coco/train").mkdir(parents=True)
    (tmp_path / "in/a.png").rename(tmp_path / "coco/train/a.png")
    (tmp_path / "out/detections.json").rename(tmp_path / "coco/train/_annotations.coco.json")
    again = load_source({"name": "coco", "root": str(tmp_path / "coco"), "val_ratio": 0.0}, "boxes").split("train")
    np.testing.assert_allclose(np.asarray(again.fields["boxes"][0])[:, :4], objects.boxes, atol=0.02)
    (tmp_path / "coco/train/a.png").rename(tmp_path / "in/a.png")
    assert detect.main(words) == 2 and "is not an empty folder" in capsys.readouterr().err
    Image.new("RGB", (9, 9)).save(tmp_path / "in/a.jpg")
    words[words.index("--out") + 1] = str(tmp_path / "none")
    assert detect.main(words) == 2 and "would both be overlays/a.png" in capsys.readouterr().err
    words[words.index("--out") + 1] = str(tmp_path / "in/b.png/results")
    assert detect.main(words) == 2 and "b.png is not a writable folder" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert predict.main(words[:3]) == 2 and "jaxdino.detect` and `model.detect` find its" in capsys.readouterr().err
    with pytest.raises(UserError, match="threshold=2 must be in"):
        jaxdino.load(whole).detect([image], threshold=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(data__name="masks"), "unknown source of boxes 'masks'; nearest: "),
        (dict(objective__width=12), "width=12 of a detection head must be a multiple of 8"),
        (dict(objective__radius=0.0), "objective.radius=0.0"),
        (dict(data__max_boxes=0), r"data.max_boxes=0 must be"),
        (dict(model__name="resnet18", model__configured_for="resnet18", objective__blocks=2), "has feature maps"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        prepare(config(**changes), lambda _: None)
