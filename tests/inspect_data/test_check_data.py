"""`jaxdino check-data` finds each planted defect, and nothing else on clean data."""

import json
import os
import shlex
import shutil

import numpy as np
import planted
import pytest
from PIL import Image

from jaxdino.check_data import main
from jaxdino.inspect_data import masks, pixels
from jaxdino.inspect_data.exposure import flags
from jaxdino.inspect_data.findings import CHECKS
from jaxdino.settings.command_line import command

FEW = ["--min_samples_per_class=1"]


def run(root, *flags, status=0):
    """Run the command; return its JSON, with paths below the root."""
    out = root.parent / "found.json"
    assert main([f"--root={root}", f"--json={out}", *FEW, *flags]) == status
    found = json.loads(out.read_text())
    for name in CHECKS:
        found[name] = [[os.path.relpath(path, root) for path in group] for group in found[name]]
    return found


def listed(found):
    """The checks that found something."""
    return {name: found[name] for name in CHECKS if found[name]}


@pytest.fixture
def root(tmp_path):
    return planted.folder(tmp_path / "data")


def test_clean_data_has_nothing_to_report(root, capsys):
    found = run(root, "--strict")
    assert listed(found) == {}
    assert found["images"] == {"train": 12, "val": 6}
    assert found["classes"] == {"cat": {"train": 6, "val": 3}, "dog": {"train": 6, "val": 3}}
    assert found["formats"] == {"JPEG RGB": 18}
    assert found["sizes"]["width"] == {"min": 240, "median": 240, "max": 240}
    shown = capsys.readouterr().out
    assert "cat        6    3" in shown and "found none: images that cannot be read, identical files, " in shown


def test_identical_files_leaks_and_contradicting_classes(root):
    shutil.copy(root / "train/cat/1.jpg", root / "val/cat/copy.jpg")
    shutil.copy(root / "train/cat/2.jpg", root / "train/dog/copy.jpg")
    found = listed(run(root, "--strict", status=1))
    leak, conflict = ["train/cat/1.jpg", "val/cat/copy.jpg"], ["train/cat/2.jpg", "train/dog/copy.jpg"]
    doubled = {"duplicates": [leak, conflict], "label_conflicts": [conflict]}
    assert found == doubled | {"leaks": [leak], "exact_leaks": [leak]}


def test_near_duplicates(root):
    image = Image.open(root / "train/cat/0.jpg")
    image.resize((300, 300)).save(root / "train/cat/larger.jpg", quality=60)
    Image.open(root / "train/dog/0.jpg").point(lambda v: v * 0.9).save(root / "val/dog/darker.png")
    shutil.copy(root / "train/cat/0.jpg", root / "train/cat/copy.jpg")
    found = listed(run(root))
    near = [
        ["train/cat/0.jpg", "train/cat/copy.jpg", "train/cat/larger.jpg"],
        ["train/dog/0.jpg", "val/dog/darker.png"],
    ]
    same = [["train/cat/0.jpg", "train/cat/copy.jpg"]]
    assert found == {"duplicates": same, "near_duplicates": near, "leaks": [near[1]]}
    assert listed(run(root, "--distance=-1")) == {"duplicates": same}


@pytest.mark.parametrize("form", ["jpg", "png", "webp", "tif", "bmp", "gif"])
def test_truncated_and_unreadable_files(root, form, monkeypatch):
    monkeypatch.setattr(pixels, "CHUNK", 5)
    cut = root / f"train/cat/cut.{form}"
    planted.picture(99).save(cut)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    (root / "val/dog/empty.jpg").touch()
    (root / "val/dog/page.png").write_text("<html>not found</html>")
    found = run(root)
    bad = [[f"train/cat/cut.{form}"], ["val/dog/empty.jpg"], ["val/dog/page.png"]]
    assert listed(found) == {"unreadable": bad, "truncated": bad[:1]}
    reasons = {os.path.relpath(path, root): why for path, why in found["reasons"]["unreadable"].items()}
    assert reasons["val/dog/empty.jpg"] == "the file is empty" and "a web page" in reasons["val/dog/page.png"]


def test_brightness_contrast_and_size_with_their_limits(root):
    levels = np.asarray(planted.picture(50).convert("L")).astype(np.float64)
    kinds = {"dark": levels / 16, "bright": 240 + levels / 16, "grey": 120 + levels / 64}
    for name, values in kinds.items():
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(root / f"train/cat/{name}.png")
    planted.picture(51, (223, 500)).save(root / "train/cat/small.jpg")
    dark, bright, grey = ([f"train/cat/{name}.png"] for name in kinds)
    small = [["train/cat/small.jpg"]]
    assert listed(run(root, "--contrast=1.5", "--distance=-1")) == {
        "dark": [dark],
        "bright": [bright],
        "low_contrast": [grey],
        "small": small,
    }
    assert listed(run(root, "--contrast=0", "--dark=0", "--bright=255", "--small=223", "--distance=-1")) == {}


def test_small_unbalanced_and_missing_classes(root):
    shutil.rmtree(root / "val/dog")
    found = run(root, "--min_samples_per_class=7", "--strict", status=1)
    assert found["small_classes"] == {"cat": 6, "dog": 6} and not found["unbalanced"]
    assert found["one_split_classes"] == {"dog": "train"}
    for i in range(2, 6):
        (root / f"train/dog/{i}.jpg").unlink()
    assert run(root, "--max_class_imbalance=2.5")["unbalanced"] and run(root)["imbalance"] == 3
    assert not run(root, "--max_class_imbalance=3")["unbalanced"]


def test_statistics_are_those_of_the_training_pixels(root, capsys):
    found = run(root, "--statistics")["statistics"]
    pixels = np.stack([np.asarray(Image.open(path)) for path in (root / "train").rglob("*.jpg")]) / 255
    np.testing.assert_allclose(found["mean"], pixels.mean(axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(found["std"], pixels.std(axis=(0, 1, 2)), atol=1e-4)
    mean = ",".join(map(str, found["mean"]))
    assert found["images"] == 12 and f"--config.data.mean='({mean})' --config.data.std='(" in capsys.readouterr().out
    assert run(root)["statistics"] == {}
    given = command("configs/linear.py", shlex.split(flags(found))).config("dinov3_vits16").data
    assert [list(given.mean), list(given.std)] == [found["mean"], found["std"]]


def test_processes_find_the_same_as_threads(root):
    (root / "val/dog/empty.jpg").touch()
    one, two = run(root, "--threads=1"), run(root, "--processes=2")
    assert one == two and one["unreadable"]


def test_manifests_of_several_labels_and_their_splits(root):
    rows = ["path,labels,split", *(f"train/cat/{i}.jpg,cat|pet,train" for i in range(4))]
    rows += ["train/dog/0.jpg,dog|pet,train", "train/cat/5.jpg,pet,val"]
    shutil.copy(root / "train/cat/0.jpg", root / "train/dog/0.jpg")
    file = root / "list.csv"
    file.write_text("\n".join(rows) + "\n")
    out = root.parent / "found.json"
    assert main([f"--root={file}", "--name=manifest", f"--json={out}"]) == 0
    found = json.loads(out.read_text())
    assert found["classes"]["pet"] == {"train": 5, "val": 1}
    assert found["one_split_classes"] == {"cat": "train", "dog": "train"}
    assert [[os.path.basename(path) for path in group] for group in found["label_conflicts"]] == [["0.jpg", "0.jpg"]]


def test_masks_that_do_not_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "CHUNK", 2)
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for i in range(6):
        planted.picture(i).save(root / f"images/{i}.jpg")
        Image.new("L", (240, 240), 1).save(root / f"masks/{i}.png")
    flags = ["--name=masks", "--data.val_ratio=0"]
    assert listed(run(root, *flags)) == {}
    Image.new("L", (100, 240), 1).save(root / "masks/0.png")
    Image.new("L", (240, 240)).save(root / "masks/1.png")
    (root / "masks/2.png").write_bytes(b"x")
    found = run(root, *flags)
    assert listed(found) == {"bad_masks": [["images/0.jpg"], ["images/1.jpg"], ["images/2.jpg"]]}
    reasons = list(found["reasons"]["bad_masks"].values())
    assert reasons[0] == "its mask is 100 x 240, the image 240 x 240" and "empty" in reasons[1]
    assert "cannot be read" in reasons[2]


def test_settings_of_the_data_are_read(root):
    shutil.rmtree(root / "val")
    assert run(root, "--data.val_ratio=0.5", "--data.split_seed=3")["images"] == {"train": 6, "val": 6}
    assert run(root, "--data.val_split=none", "--data.val_ratio=0.0")["images"] == {"train": 12}


def test_leaf_classes(tmp_path):
    for name in ("a/cat", "a/dog", "b/cat"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            planted.picture(hash_of(name) + i).save(tmp_path / "data" / name / f"{i}.jpg")
    found = run(tmp_path / "data", "--data.classes=leaf", "--data.val_ratio=0")
    assert list(found["classes"]) == ["a/cat", "a/dog", "b/cat"]


def hash_of(name):
    return sum(name.encode()) * 10


def test_names_that_are_not_unicode_are_in_the_json(root):
    odd = os.fsencode(str(root / "train/cat/")) + b"/a\xff\n.jpg"
    with open(odd, "wb") as file:
        file.write(b"x")
    ((path,),) = run(root)["unreadable"]
    assert os.path.isfile(root / path) and os.fsencode(path) == b"train/cat/a\xff\n.jpg"


def test_a_process_that_is_killed_is_one_line(root, monkeypatch, capsys):
    monkeypatch.setattr("jaxdino.inspect_data.pixels.examine", kill)
    assert main([f"--root={root}", "--processes=1"]) == 2
    assert "error: a reading process was ended" in capsys.readouterr().err


def kill(records, how):
    os._exit(9)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--name=foldr"], "unknown data source 'foldr'; nearest: folder"),
        (["--root=nowhere"], "the data root nowhere does not exist"),
        (["--root="], "give --root DIR"),
        (["--name=images", "--root=EMPTY"], "no images under"),
        (["--data.rot=x"], "--data.rot=x is not a setting of the data; nearest: data.root"),
        (["--data.num_workers=2"], "--data.num_workers=2 has no effect on this command; give --processes N"),
        (
            ["--data.on_bad=stop"],
            "--data.on_bad=stop has no effect on this command: leave it out. It reads: data.classes, ",
        ),
        (["--prompts.points=2"], "--prompts.points=2 has no effect on this command"),
        (["--data.val_ratio=x"], "--data.val_ratio=x: a number is wanted"),
        (["--wrong=1"], "--wrong=1 is not a flag of this command"),
        (["--data.columns=label"], "data.columns=label is for data.name=manifest, tfds, hf; 'folder' does not read it"),
        (["--dark=-1"], "--dark=-1.0 must be in [0, 256)"),
        (["--distance=16"], "--distance=16 must be in [-1, 15]"),
        (["--channels=0"], "--channels=0 must be at least 1"),
        (["--json=EMPTY"], "is a folder: give a file"),
        (["--json=nowhere/x.json"], "there is no folder"),
    ],
)
def test_wrong_arguments_are_one_line(root, flags, words, capsys, monkeypatch):
    monkeypatch.chdir(root.parent)
    (root.parent / "EMPTY").mkdir()
    assert main([f"--root={root}", *flags]) == 2
    shown = capsys.readouterr().err
    assert words in shown and shown.startswith("error: ") and shown.count("\n") == 1
