"""`python -m jaxdino.predict`: files, folders and patterns in, lines or a table out."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import jaxdino
from convert.store import Card, save_model
from jaxdino import predict
from jaxdino.core.params import split
from jaxdino.data.inputs import find_inputs
from jaxdino.models.registry import get


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, spec = tmp_path_factory.mktemp("run") / "ours", get("dinov3_digits")
    flat = {path: np.asarray(leaf) for path, leaf in split(spec.build(3))[1].items()}
    save_model(folder, Card(spec, spec.linear(3), class_names=("cat", "dog", "emu")), flat)
    return str(folder)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """photos/ with a.png, b.jpg (broken), sub/c.png, sub/[d].png, sub/notes.txt; a working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for n, name in enumerate(("a.png", "sub/c.png", "sub/[d].png")):
        pixels = np.random.default_rng(n).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "b.jpg").write_text("no image")
    (tmp_path / "photos" / "sub" / "notes.txt").write_text("none")
    return tmp_path


ALL = ["photos/a.png", "photos/b.jpg", "photos/sub/[d].png", "photos/sub/c.png"]


@pytest.mark.parametrize(
    ("names", "found", "below"),
    [
        (["photos"], ALL, ["a.png", "b.jpg", "sub/[d].png", "sub/c.png"]),
        (["photos/sub/[d].png"], [ALL[2]], ["[d].png"]),  # a file of that name, not a pattern
        (["photos/**/*.png"], [ALL[0], ALL[2], ALL[3]], ["a.png", "sub/[d].png", "sub/c.png"]),
        (["photos/**"], ALL, ["a.png", "b.jpg", "sub/[d].png", "sub/c.png"]),
        (["photos/s*"], ALL[2:], ["sub/[d].png", "sub/c.png"]),
        (
            ["photos/sub/?.png", "gone.png", "photos/sub"],
            [ALL[3], "gone.png", ALL[2]],
            ["c.png", "gone.png", "[d].png"],
        ),
    ],
)
def test_files_folders_and_patterns(photos, names, found, below):
    inputs, _ = find_inputs(names)
    assert [(image.path, image.below) for image in inputs] == list(zip(found, below, strict=True))


def test_what_is_passed_over_is_said(photos):
    (note,) = find_inputs(["photos"], leave_out="photos/sub")[1]
    assert note == "photos: 2 images; passed over: 2 in photos/sub, 1 not an image (.txt)"


def test_a_table_holds_every_image_in_order(run, photos, capsys):
    model = jaxdino.load(run)
    readable = [name for name in ALL if name != "photos/b.jpg"]
    expected = dict(zip(readable, model.predict(readable, topk=2), strict=True))
    for name in ("r.csv", "r.json", "r.jsonl"):
        flags = ["--top", "2", "--batch_size", "2"]
        assert predict.main(["--workdir", run, *flags, "--out", name, "photos"]) == 1
        out, err = capsys.readouterr()
        assert out == f"4 images in {name}, 1 of them unread, with the reason\n"
        assert "photos: 4 images; passed over: 1 not an image (.txt)" in err and "skipped photos/b.jpg: not an" in err
    with open("r.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    listed = json.loads((photos / "r.json").read_text())
    assert listed == [json.loads(line) for line in (photos / "r.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [row["path"] for row in listed] == ALL
    assert rows[1]["error"] == listed[1]["error"] == "not an image Pillow knows" and rows[1]["class"] == ""
    for row, record in zip(rows, listed, strict=True):
        if "error" in record:
            continue
        (first, odds), (second, less) = expected[row["path"]]
        assert (row["class"], row["class_2"], row["error"]) == (first, second, "")
        assert float(row["probability"]) == pytest.approx(odds, abs=1e-5) == record["top"][0]["probability"]
        assert float(row["probability_2"]) == pytest.approx(less, abs=1e-5)
        assert (record["class"], record["top"][1]["class"]) == (first, second)


MISTAKES = {
    "r.txt: give a file that ends in .csv, .json, .jsonl": ["--out", "r.txt"],
    "--out old.csv exists already: give another file, or --overwrite": ["--out", "old.csv"],
    "--out photos.csv is a folder": ["--out", "photos.csv"],
    "nothing matches 'photos/*.gif': photos holds a.png, b.jpg, sub": ["photos/*.gif"],
    "nothing matches 'photo/*': there is no folder photo; nearest: photos": ["photo/*"],
    "no images in photos/sub/*.txt; passed over: 1 not an image (.txt)": ["photos/sub/*.txt"],
    "no images in empty; it holds no files": ["empty"],
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_one_clear_error_and_nothing_is_written(run, photos, words, capsys):
    (photos / "old.csv").write_text("old")
    for name in ("empty", "photos.csv"):
        (photos / name).mkdir()
    before = sorted(photos.rglob("*"))
    assert predict.main(["--workdir", run, *MISTAKES[words], "photos/a.png"]) == 2
    assert words in capsys.readouterr().err
    assert sorted(photos.rglob("*")) == before and (photos / "old.csv").read_text() == "old"


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141), (OSError(28), 2)])
def test_no_half_of_a_table_is_left(run, photos, monkeypatch, error, status):
    def stop(*args):
        raise error

    monkeypatch.setattr(predict, "skip", stop)
    (photos / "r.csv").write_text("old")
    before = sorted(photos.rglob("*"))
    assert predict.main(["--workdir", run, "--out", "r.csv", "--overwrite", "photos"]) == status
    assert sorted(photos.rglob("*")) == before and (photos / "r.csv").read_text() == "old"


def test_what_is_assumed_is_said_with_a_flag_that_there_is(tmp_path, capsys):
    torch, vit = pytest.importorskip("torch"), pytest.importorskip("timm.models.vision_transformer")
    how = dict(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2, num_classes=3)
    torch.save(vit.VisionTransformer(**how).state_dict(), tmp_path / "pytorch_model.bin")
    values = np.random.default_rng(0).integers(0, 4001, (40, 40)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    flags = ["--workdir", str(tmp_path), str(tmp_path / "deep.png")]
    assert predict.main(flags) == 0
    told = capsys.readouterr().err
    assert "assumed: 1 attention head (width 64 / 64); python -m convert import --num_heads overrules\n" in told
    assert "read as 12-bit; --sixteen_bit=0,4095 says so\n" in told and "Warning" not in told
    assert predict.main([*flags, "--sixteen_bit", "9,3"]) == 2
    assert "error: --sixteen_bit=9,3: give the value of black first" in capsys.readouterr().err


def test_images_that_are_not_read_as_they_are_are_said(run, photos, capsys):
    drawn = Image.new("RGBA", (32, 32))
    drawn.putalpha(Image.linear_gradient("L").resize((32, 32)))
    drawn.save("icon.png")
    assert predict.main(["icon.png", "--workdir", run]) == 0
    assert "1 image(s) are not read as they are: icon.png (the picture is in its alpha" in capsys.readouterr().err


def test_more_classes_than_there_are_is_said(run, photos, capsys):
    assert predict.main(["--workdir", run, "--top", "99", "photos/a.png"]) == 0
    out, err = capsys.readouterr()
    assert "--top 99: the model has 3 classes, which are all given" in err
    assert all(name in out for name in ("cat", "dog", "emu"))
