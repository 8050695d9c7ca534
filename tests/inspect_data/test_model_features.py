"""Near-duplicates by features are those of a comparison of all with all; wrong classes are found."""

import importlib.util
import json
import os
import shutil

import numpy as np
import planted
import pytest

from jaxdino.check_data import main
from jaxdino.data.record import Source, Split
from jaxdino.inspect_data import suspects
from jaxdino.inspect_data.images import Images
from jaxdino.inspect_data.neighbours import similar

WEIGHTS = "--weights=dinov3_digits"
WRONG = (3, 20, 41, 71, 90, 101)


@pytest.fixture
def root(tmp_path):
    return planted.folder(tmp_path / "data")


def run(root, *flags):
    out = root.parent / "found.json"
    assert main([f"--root={root}", f"--json={out}", WEIGHTS, "--min_samples_per_class=1", *flags]) == 0
    found = json.loads(out.read_text())
    return {
        key: [[os.path.relpath(path, root) for path in group] for group in found[key]]
        for key in ("near_duplicates", "leaks", "duplicates", "suspects", "unreadable")
    } | {key: found[key] for key in ("limits", "calibration")}


def test_pairs_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    found = rng.normal(size=(200, 8)).astype(np.float32)
    found[100:150] = found[:50] + rng.normal(size=(50, 8)) * rng.uniform(0, 0.5, (50, 1))
    rows = np.sort(rng.choice(1000, 200, replace=False))
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    one, two = np.nonzero(np.triu(unit @ unit.T >= 0.97, 1))
    assert 20 < len(one) < 100
    np.testing.assert_array_equal(similar(found, rows, 0.97), np.stack([rows[one], rows[two]], axis=1))
    assert similar(found[:1], rows[:1], 0.5).shape == (0, 2)


def test_features_find_what_hashes_are_not_asked_for(root):
    planted.picture(0).resize((300, 300)).save(root / "val/cat/larger.png")
    (root / "train/cat/bad.jpg").write_bytes(b"x")
    shutil.copy(root / "train/dog/1.jpg", root / "train/dog/copy.jpg")
    found = run(root, "--distance=-1", "--cosine=0.9999")
    near = [["train/cat/0.jpg", "val/cat/larger.png"]]
    assert found["near_duplicates"] == found["leaks"] == near and found["unreadable"] == [["train/cat/bad.jpg"]]
    assert found["duplicates"] == [["train/dog/1.jpg", "train/dog/copy.jpg"]]
    assert found["suspects"] == []
    assert found["limits"]["cosine"] == 0.9999 and found["calibration"] is None


def clusters(count=60, wrong=WRONG):
    """Images of two classes without overlap in their features, of which some have the other class."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], count).astype(np.int32)
    found = rng.normal(size=(2 * count, 4)).astype(np.float32) + 6 * label[:, None]
    label[list(wrong)] ^= 1
    names = ("cat", "dog", "rare")
    split = Split("train", [f"{i}.jpg" for i in range(2 * count + 1)], {"label": np.append(label, 2)}, names)
    return Images(Source("folder", names, {"train": split})), np.vstack([found, found[:1]])


def test_wrong_classes_are_suspects():
    pytest.importorskip("cleanlab")
    images, found = clusters()
    wrong, note = suspects.suspects(images, found, np.arange(len(images)))
    assert sorted(wrong) == [*WRONG] and note.startswith("1 images were not searched")
    assert wrong[3].startswith("labelled dog (0.0") and ", looks like cat (0.9" in wrong[3]
    some = np.array([i for i in range(len(images)) if i not in (3, 5)])  # unreadable images
    found_again = set(suspects.suspects(images, found[some], some)[0])  # how many, cleanlab estimates
    assert found_again <= {*WRONG} - {3} and len(found_again) >= 4


def test_suspects_of_a_folder(root):
    pytest.importorskip("cleanlab")
    found = run(root, "--suspects", "--cosine=0.97")
    assert all(len(group) == 1 for group in found["suspects"])


def test_a_missing_library_is_named(root, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(suspects, "find_spec", lambda name: None if name == "cleanlab" else real(name))
    assert main([f"--root={root}", WEIGHTS, "--suspects"]) == 2
    assert "error: --suspects needs cleanlab: pip install 'jaxdino[check]'\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--suspects"], "--suspects is for the features of a backbone: give its --weights too"),
        (["--model=dinov3_vits16"], "--model is for the features of a backbone"),
        (["--cosine=0.9"], "--cosine is for the features of a backbone"),
        ([WEIGHTS, "--pool=max"], "pool 'max' is not known"),
        ([WEIGHTS, "--channels=1"], "the model takes 3 channels"),
        (["--weights=nothing.pth"], "nothing.pth"),
        ([WEIGHTS, "--suspects", "--name=images"], "needs images of one class each"),
    ],
)
def test_wrong_arguments_end_before_an_image_is_read(root, flags, words, capsys, monkeypatch):
    if "--suspects" in flags and WEIGHTS in flags:
        pytest.importorskip("cleanlab")
    monkeypatch.setattr("jaxdino.inspect_data.pixels.facts", None)
    assert main([f"--root={root}", *flags]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
