"""`python -m jaxdino.segment`: files that others read, a line for each mask, and one clear error for a mistake."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

import jaxdino
from convert.store import Card, save_model
from jaxdino import mask_parts, segment
from jaxdino.api.segmenter import Segmenter
from jaxdino.core.params import split
from jaxdino.evals import segmentation_pictures as pictures
from jaxdino.models.registry import get
from tests import tiny_segmenter

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny_segmenter.save(folder)
    return str(folder)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Two that can be read, of different sizes, and one that cannot; names below the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, size in (("a.png", (40, 56)), ("b.jpg", (70, 33))):
        Image.fromarray(RNG.integers(0, 256, (*size, 3), np.uint8)).save(name)
    (tmp_path / "bad.png").write_text("no image")
    return tmp_path


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools' decode
def test_masks_pictures_and_a_data_set_are_written(run, images, capsys):
    args = ["--workdir", run, "--prompt", "red circle", "--prompt", "../blue", "--out", "new/out", "a.png", "b.jpg"]
    assert segment.main(args) == 0
    files = sorted(path.name for path in (images / "new" / "out").iterdir())
    parts = ("_blue", "overlay", "red_circle")
    assert files == sorted([*(f"{stem}.{part}.png" for stem in "ab" for part in parts), "masks.json"])
    coco, model = COCO("new/out/masks.json"), jaxdino.load(run)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines() if "\t" in line]
    assert [line[:2] for line in lines] == [[n, p] for n in ("a.png", "b.jpg") for p in ("red circle", "../blue")]
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["red circle", "../blue"]
    for row, (line, note) in enumerate(zip(lines, coco.loadAnns(coco.getAnnIds()), strict=True)):
        name, prompt, part = line[0], line[1], ("red_circle", "_blue")[row % 2]
        assert coco.loadImgs(note["image_id"])[0]["file_name"] == name
        assert coco.loadCats(note["category_id"])[0]["name"] == prompt
        found = model.segment(name, [prompt])
        mask = np.asarray(Image.open(f"new/out/{name[0]}.{part}.png"))
        assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255}
        np.testing.assert_array_equal(mask > 0, found.masks[0])
        np.testing.assert_array_equal(coco.annToMask(note), found.masks[0])
        assert note["area"] == found.masks.sum() and float(line[2]) == pytest.approx(found.masks.mean(), abs=1e-4)
        assert (
            note["score"] == pytest.approx(float(found.scores[0]), abs=1e-5) == pytest.approx(float(line[3]), abs=1e-4)
        )
        rows, columns = np.nonzero(found.masks[0])
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert note["bbox"] == box
    with Image.open("new/out/a.overlay.png") as overlay:
        assert overlay.width > 500 and len(np.unique(np.asarray(overlay).reshape(-1, 4), axis=0)) > 50


def test_what_cannot_be_read_is_skipped_and_named(run, images, capsys):
    assert segment.main(["--workdir", run, "--prompt", "x", "--out", "o", "bad.png", "a.png", "gone.png"]) == 1
    told = capsys.readouterr()
    assert "skipped bad.png: not an image" in told.err and "skipped gone.png: there is no such file" in told.err
    assert told.out.startswith("a.png\tx\t")
    assert [image["file_name"] for image in json.loads((images / "o" / "masks.json").read_text())["images"]] == [
        "a.png"
    ]
    assert segment.main(["--workdir", run, "--prompt", "x", "--out", "p", "bad.png"]) == 1
    assert not (images / "p").exists()
    Image.new("RGB", (90, 5)).save("long.png")
    assert segment.main(["--workdir", run, "--prompt", "x", "--out", "o", "long.png", "a.png"]) == 1
    assert "skipped long.png: the image is 90 wide and 5 high" in capsys.readouterr().err


def test_the_range_of_deep_pixels_can_be_given(run, images):
    levels = (np.asarray(Image.open("a.png").convert("L")).astype(np.uint16) * 16).clip(0, 4095)
    Image.fromarray(levels).save("deep.png")
    assert segment.main(["--workdir", run, "--prompt", "x", "--out", "o", "--sixteen_bit", "0,9000", "deep.png"]) == 0
    found = jaxdino.load(run).segment("deep.png", ["x"], sixteen_bit="0,9000")
    np.testing.assert_array_equal(np.asarray(Image.open("o/deep.x.png")) > 0, found.masks[0])


def test_points_and_boxes_reach_the_model(run, images):
    args = ["--workdir", run, "--prompt", "red circle", "--points", "3,4;20.5,30,0", "--boxes", "2,3,30,31;0,0,9,9"]
    assert segment.main([*args, "--out", "o", "--threshold", "0.01", "a.png"]) == 0
    spatial = {"points": [[3, 4], [20.5, 30]], "point_labels": [1, 0], "boxes": [[2, 3, 30, 31], [0, 0, 9, 9]]}
    found = jaxdino.load(run).segment("a.png", ["red circle"] * 2, **spatial, threshold=0.01)
    for n, mask in enumerate(found.masks, 1):
        np.testing.assert_array_equal(np.asarray(Image.open(f"o/a.red_circle.{n}.png")) > 0, mask)
    notes = json.loads((images / "o" / "masks.json").read_text())
    assert len(notes["categories"]) == 1 and [note["category_id"] for note in notes["annotations"]] == [1, 1]


PAIR = ["--prompt", "red circle", "a.png"]
MISTAKES = {
    "--prompt ' ' is empty": ["--prompt", " ", "a.png"],
    "the prompt 'cat cat": ["--prompt", "cat " * 76, "a.png"],
    "'3' is not 2 or 3 numbers": [*PAIR, "--points", "1,2;3"],
    "'x,2' is not 2 or 3 numbers": [*PAIR, "--points", "x,2"],
    "'1,nan' is not": [*PAIR, "--points", "1,nan"],
    "labels hold 7": [*PAIR, "--points", "1,2,7"],
    "a.png: point 0 of prompt 0 lies at x=60, y=2, outside": [*PAIR, "--points", "60,2"],
    "b.jpg: point 0 of prompt 0 lies at x=40, y=2, outside": [*PAIR, "b.jpg", "--points", "40,2"],
    "'' is not 4 numbers": [*PAIR, "--boxes", "1,2,3,4;"],
    "x2=2, y2=9, ends before it begins": [*PAIR, "--boxes", "5,2,2,9"],
    "has no area": [*PAIR, "--boxes", "5,2,5,9"],
    "lies outside the image": [*PAIR, "--boxes", "5,2,57,9"],
    "--boxes has 3 boxes for 2 prompts": [*PAIR, "--prompt", "x", "--boxes", "1,1,2,2;1,1,2,2;1,1,2,2"],
    "--threshold nan": [*PAIR, "--threshold", "nan"],
    "--out a.png cannot be written: a.png is not a writable folder": [*PAIR, "--out", "a.png"],
    "--out a.png/o cannot be written": [*PAIR, "--out", "a.png/o"],
    "a.png and sub/a.jpg would both be written to a.red_circle.png": [*PAIR, "sub/a.jpg"],
    "two masks of a.png would both be written to a.overlay.png": ["--prompt", "overlay", "a.png"],
    "all images of . are in ., the folder of the results": ["--prompt", "x", ".", "--out", "."],
    "--table o/masks.json: the list of the masks is written there": [*PAIR, "--table", "o/masks.json"],
    "--table t.txt: give a file that ends in": [*PAIR, "--table", "t.txt"],
    "--table old.csv exists already": [*PAIR, "--table", "old.csv"],
    "nothing matches '*.gif'": [*PAIR, "*.gif"],
    "selects one file type": [*PAIR, "sub/*.jpg", "a.png"],
    "a.x.png would be written over an image": ["--prompt", "x", "a.png", "a.x.png", "--out", "."],
    "there is no folder nowhere": [*PAIR, "--workdir", "nowhere"],
    "has not finished a stage yet": [*PAIR, "--workdir", "begun"],
    "holds neither a run nor a model": [*PAIR, "--workdir", "empty"],
    "other holds a dinov3_digits, which takes no prompts": [*PAIR, "--workdir", "other"],
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_one_clear_error_and_nothing_is_written(run, images, words, capsys):
    for name in ("begun/checkpoints", "empty"):
        (images / name).mkdir(parents=True)
    (images / "old.csv").write_text("old")
    (images / "sub").mkdir()
    Image.new("RGB", (9, 9)).save("sub/a.jpg")
    if words.startswith("other"):
        spec = get("dinov3_digits")
        save_model("other/best", Card(spec), {path: np.asarray(leaf) for path, leaf in split(spec.build())[1].items()})
    before = sorted(images.rglob("*"))
    assert segment.main(["--workdir", run, "--out", "o", *MISTAKES[words]]) == 2
    assert words in capsys.readouterr().err and sorted(images.rglob("*")) == before


@pytest.fixture
def tree(images):
    """photos/ with a.png, sub/a.png (the same picture), sub/bad.png, sub/notes.txt."""
    (images / "photos" / "sub").mkdir(parents=True)
    for source, place in (("a.png", "a.png"), ("a.png", "sub/a.png"), ("bad.png", "sub/bad.png")):
        (images / "photos" / place).write_bytes((images / source).read_bytes())
    (images / "photos" / "sub" / "notes.txt").write_text("none")
    return images


def test_folders_are_mirrored_and_a_table_holds_every_mask(run, tree, capsys):
    args = ["--workdir", run, "--prompt", "x", "--prompt", "y", "--out", "photos/out"]
    assert segment.main([*args, "--table", "t/t.csv", "photos"]) == 1
    out, err = capsys.readouterr()
    assert out == "4 masks in t/t.csv; 1 of 3 images have none, with the reason\n"
    assert "photos: 3 images; passed over: 1 not an image (.txt)" in err and "skipped photos/sub/bad.png: not" in err
    with open("t/t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    paths = ["photos/a.png", "photos/sub/a.png"]
    assert [(row["path"], row["prompt"], row["mask"]) for row in rows[:4]] == [
        (path, name, path.replace("photos", "photos/out").replace("a.png", f"a.{name}.png"))
        for path in paths
        for name in "xy"
    ]
    assert rows[4]["path"] == "photos/sub/bad.png" and rows[4]["error"] == "not an image Pillow knows"
    notes = json.loads((tree / "photos" / "out" / "masks.json").read_text())
    assert [image["file_name"] for image in notes["images"]] == paths
    for row, note in zip(rows, notes["annotations"], strict=False):
        mask = np.asarray(Image.open(row["mask"])) > 0
        assert int(row["area"]) == note["area"] == mask.sum() and row["error"] == ""
        assert float(row["share"]) == pytest.approx(mask.mean(), abs=1e-6)
        assert float(row["score"]) == note["score"]
    assert segment.main([*args, "--table", "t/t.json", "photos/**/*.png"]) == 1  # not the masks of the first call
    assert "photos/**/*.png: 3 images; passed over: 6 in photos/out" in capsys.readouterr().err
    listed = json.loads((tree / "t" / "t.json").read_text())
    assert [row["path"] for row in listed] == [row["path"] for row in rows]
    assert listed[4] == {"path": "photos/sub/bad.png", "error": rows[4]["error"]}
    assert listed[0]["area"] == int(rows[0]["area"])


@pytest.mark.parametrize("second", ["before its files", "while they are written"])
def test_after_ctrl_c_the_list_holds_what_is_there(run, tree, monkeypatch, capsys, second):
    """The first image is done; the second is interrupted before or within `MaskFiles.write`."""
    calls = []
    place = (Segmenter, "segment") if second.startswith("before") else (pictures, "draw_overlay")
    original = getattr(*place)

    def press(*args, **how):
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **how)

    monkeypatch.setattr(*place, press)
    args = ["--workdir", run, "--prompt", "x", "--out", "o", "--table", "t.csv", "photos", "b.jpg"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert segment.main(args) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted" and not (tree / "t.csv").exists()
    done = ["photos/a.png", "photos/sub/a.png"][: 1 if second.startswith("before") else 2]
    files = [f"o/{path.removeprefix('photos/')[:-4]}.{part}.png" for path in done for part in ("x", "overlay")]
    found = [str(path.relative_to(tree)) for path in (tree / "o").rglob("*") if path.is_file()]
    assert sorted(found) == sorted([*files, "o/masks.json"])
    notes = json.loads((tree / "o" / "masks.json").read_text())
    assert [image["file_name"] for image in notes["images"]] == done and len(notes["annotations"]) == len(done)


def test_masks_are_a_source_of_pairs_again(run, images):
    from jaxdino.data.config import DataConfig
    from jaxdino.data.prompts import PromptConfig
    from jaxdino.data.sources import load_source

    assert segment.main(["--workdir", run, "--prompt", "red circle", "--out", "o", "a.png", "b.jpg"]) == 0
    source = load_source(
        DataConfig(name="coco", root=str(images), val_ratio=0.5), "prompts", PromptConfig(annotations="o/masks.json")
    )
    assert source.class_names == ("red circle",)
    found = [image for each in source.splits.values() for image in each.records]
    assert sorted(image.rpartition("/")[2] for image in found) == ["a.png", "b.jpg"]


def test_a_model_of_prompts_needs_one(run, images, capsys):
    assert segment.main(["--workdir", run, "a.png"]) == 2
    assert "segments what a text names: --prompt 'red circle'" in capsys.readouterr().err


def test_parts_write_what_one_process_writes(run, images, capsys, monkeypatch):
    monkeypatch.setattr(mask_parts, "BLOCK", 1)
    args = ["--workdir", run, "--prompt", "red circle", "--prompt", "blue", "--points", "1,2", "--out", "o"]
    names = ["b.jpg", "a.png", "bad.png"]
    assert segment.main([*args, "--table", "t.csv", *names]) == 1
    alone = written("o") | {"table": (images / "t.csv").read_bytes()}
    shutil.rmtree("o")
    (images / "t.csv").unlink()
    assert segment.main([*args, "--table", "t.csv", "--shard", "2/2", *names]) == 0
    assert "2 blocks of other parts are missing: the last part to finish writes o" in capsys.readouterr().out
    assert segment.main([*args, "--table", "t.csv", "--threshold", "2", "--shard", "1/2", *names]) == 2
    assert "made otherwise: threshold was 0.0, now 2.0. Delete it, or --overwrite" in capsys.readouterr().err
    assert segment.main([*args, "--table", "t.csv", "--shard", "1/2", *names]) == 1
    assert "4 masks in t.csv; 1 of 3 images have none" in capsys.readouterr().out
    assert written("o") | {"table": (images / "t.csv").read_bytes()} == alone and not Path("o.parts").exists()
    assert segment.main([*args, "--table", "u.csv", "--shard", "1/2", *names]) == 2
    assert "--out o is not an empty folder" in capsys.readouterr().err


def written(folder):
    return {str(file): file.read_bytes() for file in sorted(Path(folder).rglob("*.*"))}
