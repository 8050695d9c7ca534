"""Whole runs of semantic segmentation: strategies, state, metrics, files, and the commands on their models."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import tiny_semantic
from measured import losses
from midway import Midway
from PIL import Image
from tiny_semantic import config

import jaxdino
from convert.store import load_card, load_model
from jaxdino import evaluate, mask_parts, predict, segment
from jaxdino.api.windowed import Whole
from jaxdino.core.errors import UserError
from jaxdino.core.sharding import make_mesh
from jaxdino.data import scene_files
from jaxdino.data.sources import load_source
from jaxdino.evals import sliding, strips
from jaxdino.evals.semantic import SemanticEvaluator
from jaxdino.train import loop
from jaxdino.train.setup import prepare
from tests.data.pair_folders import save

DRAWN = True

NAMES = ("ground", "light", "dark")


def squares(root, count=40, size=(24, 32), seed=0):
    """Images of a light and a dark square on a middle grey, their masks 0 to 2, and the names."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        image, mask = rng.integers(110, 140, (*size, 3)), np.zeros(size, np.uint8)
        for value, level in ((1, 230), (2, 20)):
            y, x = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
            image[y : y + 8, x : x + 8] = level + rng.integers(0, 20, (8, 8, 3))
            mask[y : y + 8, x : x + 8] = value
        save(root / "images" / f"{number:02}.png", image.astype(np.uint8))
        save(root / "masks" / f"{number:02}.png", mask)
    (root / "classes.json").write_text(json.dumps(dict(enumerate(NAMES))))
    return root


def of_folder(root, *names, **changes):
    return config(*names, data__name="masks", data__root=str(root), data__batch_size=8, **changes)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """The folder of images, and that of a run that learns them: linear, then everything."""
    root = squares(tmp_path_factory.mktemp("semantic") / "data")
    folder = root.parent / "run"
    loop.run(of_folder(root, "linear", "full", steps=24), folder)
    return root, folder


def test_it_learns_and_reports_at_the_masks_own_size(learnt):
    root, folder = learnt
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["val/miou"] > 0.5 and summary["class_names"] == list(NAMES)
    assert [f"val/iou/{name}" in summary for name in NAMES] == [True] * 3
    assert (folder / "segmentation.png").stat().st_size > 1000 and (folder / "val_miou.png").is_file()
    val = load_source(dict(name="masks", root=str(root)), "class_mask").split("val")
    model, again = jaxdino.load(folder), SemanticEvaluator(NAMES)
    found = model.segment(list(val.records))
    assert found[0].shape == (24, 32) and found[0].dtype == np.uint8
    again.update({"prediction": found, "mask": [mask(2**20) for mask in val.fields["class_mask"]]})
    for name in ("miou", "pixel_accuracy", "iou/dark"):
        assert summary[f"val/{name}"] == pytest.approx(again.compute()[name], abs=2e-3)


def test_an_evaluation_has_the_runs_figures_with_intervals(learnt, tmp_path, capsys):
    folder = learnt[1]
    how = ["--workdir", str(folder), "--out", str(tmp_path), "--resamples", "100"]
    assert evaluate.main(how) == 0
    found, summary = (json.loads(file.read_text()) for file in (tmp_path / "evaluation.json", folder / "summary.json"))
    split = found["split"]
    for name, one in found["metrics"]["whole"].items():
        assert one["value"] == pytest.approx(summary[f"{split}/{name}"], abs=2e-3), name
        assert one["low"] < one["value"] < one["high"] and one["n"] == found["images"]
    for name in NAMES:
        assert found["metrics"]["classes"][name]["iou"]["value"] == pytest.approx(
            summary[f"{split}/iou/{name}"], abs=2e-3
        )
    scores = [one["score"] for one in found["errors"]]
    assert scores == sorted(scores) and len(scores) == found["images"] and not found["tta"]
    assert "Confusion of pixels" in (tmp_path / "evaluation.html").read_text()
    assert evaluate.main([*how, "--tta", "flip", "--parts", "metrics"]) == 0
    mirrored = json.loads((tmp_path / "evaluation.json").read_text())
    assert mirrored["tta"] == ["flip"] and mirrored["metrics"]["whole"] != found["metrics"]["whole"]
    assert evaluate.main([*how, "--tta", "zoom"]) == 2 and "averaged over flip alone" in capsys.readouterr().err
    for flag, value in (("--calibrate", "vector"), ("--at", "sensitivity=0.5")):
        assert evaluate.main([*how, flag, value]) == 2 and f"{flag} is for images" in capsys.readouterr().err


def test_what_each_strategy_trains():
    rows = {}
    for name in tiny_semantic.RULES:
        (part,) = prepare(config(name), lambda _: None).parts
        rows[name] = set(part.plan.trainable)
    head = {"head.bn.scale", "head.bn.bias", "head.conv_seg.kernel", "head.conv_seg.bias"}
    assert rows["linear"] == head and head < rows["lora"] and head < rows["last"] < rows["full"]
    assert {path.split(".lora.")[0] for path in rows["lora"] - head} == {
        f"backbone.blocks.{n}.attn.{name}" for n in (0, 1) for name in ("qkv", "proj")
    }


def test_all_strategies_after_each_other_on_four_devices(all_devices, tmp_path):
    loop.run(config(*tiny_semantic.RULES, steps=2), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [row["name"] for row in summary["stages"]] == list(tiny_semantic.RULES)
    assert all(row.keys() >= {"val/miou", "val/pixel_accuracy", "val/loss"} for row in summary["stages"])
    card, flat = load_model(tmp_path / "best")
    assert card.labels_pixels and not any(".lora." in path for path in flat)


def test_statistics_of_the_head_are_state_and_frozen_ones_stay(tmp_path):
    loop.run(config("linear", steps=3), tmp_path)
    _, flat = load_model(tmp_path / "best")
    assert flat["head.bn.num_batches_tracked"] == 3 and np.abs(flat["head.bn.mean"]).max() > 1e-3
    changed = {"linear": (("head.conv_seg.*", "head"), ("@all", "frozen"))}
    rules = {**tiny_semantic.RULES, **changed}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_semantic, "RULES", rules)
        loop.run(config("linear", model__weights=str(tmp_path)), tmp_path / "more")
    _, after = load_model(tmp_path / "more" / "best")
    assert np.array_equal(after["head.bn.mean"], flat["head.bn.mean"])


def of_four_steps():
    return config("linear", steps=4, checkpoint__every_steps=2, ema_decay=0.9)


@pytest.fixture(scope="module")
def four_steps(tmp_path_factory):
    """The folder of a run, and what a kill after its third step would leave."""
    root = tmp_path_factory.mktemp("semantic_steps")
    loop.run(of_four_steps(), root / "whole", Midway(root / "whole", {3: root / "broken"}, saved=2))
    return root / "whole", root / "broken"


def test_four_devices_equal_one(four_steps, all_devices, tmp_path):
    loop.run(of_four_steps(), tmp_path)
    assert make_mesh().size == 4 and len(losses(four_steps[0])) >= 4
    np.testing.assert_allclose(losses(tmp_path), losses(four_steps[0]), rtol=2e-4)


def test_killed_and_started_again_the_result_is_bit_identical(four_steps, capsys):
    whole, broken = four_steps
    loop.run(of_four_steps(), broken)
    assert "resuming after step 2" in capsys.readouterr().out
    (card, flat), (other, _) = (load_model(folder / "best") for folder in (whole, broken))
    assert card.digest == other.digest and "head.bn.mean" in flat
    scores = [json.loads((folder / "summary.json").read_text())["test/miou"] for folder in (whole, broken)]
    assert scores[0] == scores[1]


def test_large_images_are_cut_into_windows_at_their_own_size(learnt, tmp_path):
    root, _ = learnt
    loop.run(of_folder(root, steps=1, objective__short_side=0), tmp_path)
    assert load_card(tmp_path / "best").source["short_side"] == 0
    model = jaxdino.load(tmp_path)
    image = np.asarray(Image.open(root / "images" / "00.png"))
    pixels, own = model.opened(image, model.reading([image]))
    assert pixels.shape == (24, 32, 3) and own == (24, 32) and model.card.spec.preprocess.size == (16, 16)
    (found,) = model.segment([image])
    (alone,) = model.segment([image[:16, :16]])
    assert found.shape == (24, 32) and np.array_equal(found[:5, :5], alone[:5, :5])  # where windows do not overlap


def test_segment_sees_large_images_in_the_windows_that_are_asked_for(learnt, tmp_path, capsys):
    root, folder = learnt
    image, model = str(root / "images" / "00.png"), jaxdino.load(folder)
    assert model.opened(image, model.reading([image]))[0].shape == (16, 21, 3)
    how = ["--workdir", str(folder), "--out", str(tmp_path), "--short_side", "0", "--overlap", "0.5"]
    assert segment.main([*how, "--blend", "ramp", image]) == 0
    (want,) = model.segment([image], short_side=0, overlap=0.5, blend="ramp")
    with Image.open(tmp_path / "00.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), want + 1)
    (even,) = model.segment([image])
    assert (even != want).any() and (even == want).mean() > 0.6
    assert segment.main([*how, "--blend", "hann", image]) == 2 and "blend='hann'" in capsys.readouterr().err


def test_segment_takes_the_mean_with_mirrored_windows(learnt, tmp_path, capsys):
    root, folder = learnt
    image, model = str(root / "images" / "00.png"), jaxdino.load(folder)
    how = ["--workdir", str(folder), "--out", str(tmp_path), image]
    assert segment.main([*how, "--tta", "flip"]) == 0
    seen, size = model.opened(image, model.reading([image]))
    ((_, want),) = model.windows([(None, seen, size)], 8, Whole(flip=True))
    with Image.open(tmp_path / "00.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), want.labels() + 1)
    (alone,) = model.segment([image])
    np.testing.assert_array_equal(model.segment([image], tta="flip")[0], want.labels())
    assert (alone != want.labels()).any()
    assert segment.main([*how, "--tta", "zoom"]) == 2 and "flip alone" in capsys.readouterr().err


def test_a_scene_is_written_in_strips_as_if_it_were_held(learnt, tmp_path, monkeypatch, capsys):
    _, folder = learnt
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sliding, "TILE", 32)
    monkeypatch.setattr(strips, "TILE", 32)
    monkeypatch.setattr(scene_files, "SIDE", 32)
    scene = np.random.default_rng(0).integers(0, 256, (150, 90, 3), np.uint8)
    places = [(33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 4e5, 5e6, 0.0), True)]
    tifffile.imwrite("scene.tif", scene, photometric="rgb", tile=(64, 64), compression="zlib", extratags=places)
    save(Path("small.png"), scene[:40, :40])
    save(Path("large.png"), scene)
    given = ["--workdir", str(folder), "--max_pixels", "9000", "--table", "t.jsonl", "scene.tif", "small.png"]
    for how in ({"short_side": 0, "blend": "ramp"}, {"short_side": 0}, {}):
        flags = [part for name, value in how.items() for part in (f"--{name}", str(value))]
        assert segment.main([*given, "large.png", *flags, "--out", "out", "--overwrite"]) == 1
        (want,) = jaxdino.load(folder).segment([scene], **how)
        with tifffile.TiffFile("out/scene.mask.tif") as tif:
            page = tif.pages[0]
            np.testing.assert_array_equal(page.asarray(), want + 1)
            assert page.is_tiled and page.photometric.name == "PALETTE"
            assert [page.tags[code].value for code, *_ in places] == [value for *_, value, _ in places]
        rows = [json.loads(line) for line in Path("t.jsonl").read_text().splitlines()]
        areas = {row["class"]: row["area"] for row in rows if row["path"] == "scene.tif"}
        assert areas == {NAMES[n]: count for n, count in enumerate(np.bincount(want.ravel())) if count}
        assert [row["path"] for row in rows if "error" in row] == ["large.png"]
        assert Path("out/scene.overlay.png").stat().st_size > 1000 and Path("out/small.png").exists()
    assert "and only .npy, and TIFF with pip install" in capsys.readouterr().err


def test_damaged_masks_are_skipped_and_named(tmp_path, capsys):
    root = squares(tmp_path / "data", 24)
    (root / "masks" / "03.png").write_text("no image")
    save(root / "masks" / "05.png", np.zeros((24, 31), np.uint8))
    (root / "masks" / "07.png").unlink()
    loop.run(of_folder(root, steps=4), tmp_path / "run")
    out = capsys.readouterr().out
    assert "1 image without mask" in out
    assert "skipped images/03.png: its mask masks/03.png cannot be read: UnidentifiedImageError" in out
    assert "skipped images/05.png: the image has 32 x 24 pixels, its mask 31 x 24" in out
    skipped = json.loads((tmp_path / "run" / "summary.json").read_text())["skipped_images"]
    assert sum(skipped.values()) == 2


def test_masks_without_a_class_to_measure(tmp_path):
    root = squares(tmp_path / "data", 16)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir()
    for number in range(16):
        split = "val" if number < 4 else "train"
        for kind in ("images", "masks"):
            (root / kind / f"{number:02}.png").rename(root / kind / split / f"{number:02}.png")
        if split == "val":
            save(root / "masks" / "val" / f"{number:02}.png", np.full((24, 32), 255, np.uint8))
    with pytest.raises(UserError, match="no pixel of the val masks has a class: all are ignored"):
        loop.run(of_folder(root, steps=1), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(data__name="coco"), "unknown source of masks of classes 'coco'; nearest: "),
        (dict(objective__blocks=0), "objective.blocks=0 must be at least 1"),
        (dict(objective__dropout=1.0), r"objective.dropout=1.0 must be in \[0, 1\)"),
        (dict(objective__short_side=-1), "objective.short_side=-1 must be at least 0"),
        (dict(data__image_size=18), "18"),
        (dict(early_stopping__monitor="val/accuracy"), "monitor='val/accuracy' is not measured; nearest: val/"),
        (dict(data__masks="labels"), "data.masks=labels is for data.name=masks; 'shapes' does not read it"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        prepare(config(**changes), lambda _: None)


def test_the_command_writes_masks_that_the_source_reads(learnt, tmp_path, monkeypatch, capsys):
    root, folder = learnt
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in" / "deep" / "a.png", np.asarray(Image.open(root / "images" / "00.png")))
    save(tmp_path / "in" / "b.jpg", np.asarray(Image.open(root / "images" / "01.png")))
    (tmp_path / "in" / "bad.png").write_text("no image")
    assert segment.main(["--workdir", str(folder), "--out", "out", "in"]) == 1
    printed = capsys.readouterr()
    assert "skipped in/bad.png" in printed.err and "2 masks in out; 1 image could not be read" in printed.out
    assert sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.*")) == [
        *("b.overlay.png", "b.png", "classes.txt", "deep/a.overlay.png", "deep/a.png")
    ]
    monkeypatch.setattr(mask_parts, "BLOCK", 1)
    parts = ["--workdir", str(folder), "--out", "shared", "in", "--shard"]
    assert segment.main([*parts, "1/2"]) == 0 and segment.main([*parts, "2/2"]) == 1
    for file in ("b.png", "b.overlay.png", "deep/a.png", "classes.txt"):
        assert Path("shared", file).read_bytes() == Path("out", file).read_bytes()
    assert Path("out/classes.txt").read_text().split() == list(NAMES)
    with Image.open("out/deep/a.png") as mask:
        values, (label,) = np.asarray(mask), jaxdino.load(folder).segment(["in/deep/a.png"])
        assert mask.mode == "P" and np.array_equal(values, label + 1)  # line i of classes.txt names value i
    rows = [line.split("\t") for line in printed.out.splitlines() if line.startswith("in/deep/a.png\t")]
    assert {name: float(share) for _, name, share in rows}["ground"] == pytest.approx((values == 1).mean(), abs=1e-4)
    read = load_source(dict(name="masks", root=".", images="in", masks="out", val_ratio=0.0), "class_mask")
    assert read.class_names == tuple(name for name in NAMES)
    masks = dict(zip(read.split("train").records, read.split("train").fields["class_mask"], strict=True))
    assert np.array_equal(masks["in/deep/a.png"](2**20), label)


def test_the_table_of_the_command(learnt, tmp_path, monkeypatch):
    root, folder = learnt
    monkeypatch.chdir(tmp_path)
    image = str(root / "images" / "00.png")
    assert segment.main(["--workdir", str(folder), "--table", "t.jsonl", image]) == 0
    rows = [json.loads(line) for line in Path("t.jsonl").read_text().splitlines()]
    assert sum(row["area"] for row in rows) == 24 * 32 and {row["mask"] for row in rows} == {"segmented/00.png"}


def test_prompts_are_for_the_other_kind_of_model(learnt, capsys):
    root, folder = learnt
    image = str(root / "images" / "00.png")
    for flags in (["--prompt", "dark"], ["--points", "1,2"], ["--threshold", "0.5"]):
        assert segment.main(["--workdir", str(folder), *flags, image]) == 2
        assert f"takes no prompts: leave out {flags[0]}" in capsys.readouterr().err
    assert predict.main(["--workdir", str(folder), image]) == 2
    told = capsys.readouterr().err
    assert "does not give classes of whole images" in told and "jaxdino.segment` and `model.segment` give" in told
