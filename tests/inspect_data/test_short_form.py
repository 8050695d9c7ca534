"""The lines at the start of a run: from the labels alone, and the command that shows more."""

import shlex

import numpy as np
import planted
import pytest

from jaxdino.check_data import _parser, settings
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.sources import load_source
from jaxdino.evaluate import main as evaluate
from jaxdino.inspect_data.classes import short
from jaxdino.inspect_data.limits import Limits
from jaxdino.inspect_data.listing import command


def source(*sizes, field="label"):
    names = tuple(f"c{i}" for i in range(len(sizes)))
    label = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    values = label if field == "label" else np.eye(len(sizes), dtype=np.float32)[label]
    split = Split("train", [f"{i}.jpg" for i in range(len(label))], {field: values}, names)
    return Source("folder", names, {"train": split})


@pytest.mark.parametrize("field", ["label", "labels"])
def test_small_and_unequal_classes(field):
    assert short(source(50, 500, field=field)) == []
    assert short(source(49, 20, 501, field=field)) == [
        "data: 2 classes have fewer than 50 training images: c1 (20), c0 (49)",
        "data: c2 has 25.1 times as many training images as c1: 501 and 20",
    ]
    assert short(source(1, 2), Limits(min_samples_per_class=2)) == [
        "data: 1 class has fewer than 2 training images: c0 (1)"
    ]
    assert len(short(source(*range(1, 300)))[0]) < 120


def test_images_without_classes_have_no_lines(tmp_path):
    planted.folder(tmp_path / "data")
    assert short(load_source({"name": "images", "root": str(tmp_path / "data")})) == []


def test_the_command_checks_the_same_splits():
    cfg = DataConfig(name="folder", root="my data", val_ratio=0.1, classes="leaf", num_threads=7)
    words = shlex.split(command(cfg))
    assert words[:2] == ["jaxdino", "check-data"]
    args, rest = _parser().parse_known_args(words[2:])
    found, _ = settings(args, rest)
    assert found == DataConfig(name="folder", root="my data", val_ratio=0.1, classes="leaf")
    assert command(DataConfig(name="digits")) == ""


def test_evaluation_says_them(tmp_path, capsys):
    root = planted.folder(tmp_path / "data", train=11, val=2)
    assert evaluate(["--weights=dinov3_digits", f"--root={root}"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "fewer" in line or "check-data" in line]
    assert said == [
        "data: 2 classes have fewer than 50 training images: cat (11), dog (11)",
        f"data: {command(DataConfig(name='folder', root=str(root)))} shows more",
    ]
