"""Features on disk: resumed after SIGKILL, refused when stale, in parts, read by numpy and pandas alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import jaxdino
from jaxdino.core.errors import UserError
from jaxdino.data.sources import load_source
from jaxdino.evals import report
from jaxdino.extract import main
from jaxdino.features import storage
from jaxdino.features.reader import open_features

WEIGHTS = ["--weights", "dinov3_digits"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Twelve images of each of two classes in train and four in val, one file of train broken."""
    top, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for channel, name in ((0, "red"), (2, "blue")):
            (top / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (20, 24, 3), np.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels).save(top / split / name / f"{i:02d}.png")
    (top / "train" / "red" / "03.png").write_text("no image")
    return top


@pytest.fixture(scope="module")
def flags(root):
    return [*WEIGHTS, "--root", str(root), "--layers", "2", "--views", "1", "--shard_rows", "7", "--batch_size", "4"]


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("features") / "whole"
    assert main([*flags, "--out", str(out), "--format", "pt"]) == 0
    return out


def files(folder):
    """The bytes of every file but the manifest, by path."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix in (".npy", ".parquet")
    }


def test_numpy_and_pandas_alone_read_everything(root, whole):
    index = pd.read_parquet(whole / "index.parquet")
    assert len(index) == 32 and index["row"].notna().sum() == 31
    bad = index[index["row"].isna()]
    assert bad["path"].tolist() == ["train/red/03.png"] and bad["reason"].notna().all()
    cache, model = open_features(whole), jaxdino.load("dinov3_digits")
    assert cache.images == {"train": 23, "val": 8} and cache.about["unread"]["train"] == 1
    for _, line in index[index["split"] == "val"].iterrows():
        features = np.load(whole / line["folder"] / "cls-1.npy", mmap_mode="r")[int(line["row"])]
        images = model.preprocess([str(root / line["path"])])
        np.testing.assert_allclose(features, model(images).cls[0], atol=1e-5)
        assert line["class"] == line["path"].split("/")[1] == cache.class_names[line["label"]]
    layers = model.intermediate_layers(model.preprocess([str(root / path) for path in cache.paths("val")]), 2)
    np.testing.assert_allclose(cache.load("val", "mean-2"), layers[0].patches.mean((1, 2)), atol=1e-5)
    views = cache.load("train", "cls-1"), cache.load("train", "cls-1", view=1)
    assert views[0].shape == views[1].shape and np.abs(views[0] - views[1]).max() > 0.01
    saved = torch.load(whole / "train.pt")
    np.testing.assert_array_equal(saved["cls-1"], views[0])
    np.testing.assert_array_equal(saved["labels"], cache.labels("train"))


def test_features_are_those_of_evaluate(whole, root):
    model, source = jaxdino.load("dinov3_digits"), load_source({"name": "folder", "root": str(root)})
    from jaxdino.evals import features

    found, labels = features.extract(lambda x: model(x).cls, report.batches_of(source.split("val"), None, model, 8))
    np.testing.assert_allclose(open_features(whole).load("val", "cls-1"), found, atol=1e-5)
    np.testing.assert_array_equal(open_features(whole).labels("val"), labels)


def test_a_killed_extraction_goes_on_to_the_same_bytes(flags, whole, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "jaxdino.extract", *flags, "--out", str(out)]
    environment = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=4", "device_count=1")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while time.monotonic() < end and not (out / "train" / "00000" / "shard.json").exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(UserError, match="not finished"):
        open_features(out)
    first = out / "train" / "00000" / "cls-1.npy"
    before = first.stat().st_mtime_ns
    assert main([*flags, "--out", str(out)]) == 0
    assert files(out).keys() == files(whole).keys() and first.stat().st_mtime_ns == before
    differ = [name for name, data in files(out).items() if data != files(whole)[name]]
    assert not differ


def test_parts_join_to_the_same_features(flags, whole, tmp_path, capsys):
    out = ["--out", str(tmp_path / "parts")]
    assert main([*flags, *out, "--shard", "2/2"]) == 0
    assert "part 2/2 is written" in capsys.readouterr().err
    assert main([*flags, *out, "--shard", "1/2"]) == 0
    assert files(tmp_path / "parts") == files(whole)


@pytest.mark.parametrize("store", ["bfloat16", "int8"])
def test_smaller_stores_keep_the_values_within_their_rounding(store):
    values = np.random.default_rng(0).normal(size=(5, 3, 16)).astype(np.float32)
    values[2] = 0
    arrays = storage.encoded(values, store)
    steps = np.abs(values).max(-1, keepdims=True) / (127 if store == "int8" else 128)
    assert (np.abs(storage.decoded(arrays, store) - values) <= steps / 2 + 1e-7).all()
    assert sum(array.nbytes for array in arrays.values()) == 15 * storage.bytes_per_image((16,), store)


def test_stale_features_are_refused_by_what_differs(flags, whole, root, tmp_path, capsys):
    def refused(*more):
        assert main([*flags, "--out", str(whole), *more]) == 2
        return capsys.readouterr().err

    assert "weights: dtype was float32, now bfloat16" in refused("--dtype", "bfloat16")
    assert "settings: layers was 2, now 1" in refused("--layers", "1")
    assert "preprocess: size" in refused("--image_size", "64")
    other = tmp_path / "other"
    shutil.copytree(root, other)
    (other / "val" / "red" / "00.png").unlink()
    assert main([*flags[:3], str(other), *flags[4:], "--out", str(whole)]) == 2
    assert "data: val" in (said := capsys.readouterr().err) and "--overwrite" in said
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"code": 0}))
    assert main([*flags, "--out", str(copy)]) == 2
    assert "code: features of version 0" in capsys.readouterr().err
    assert main([*flags, "--out", str(copy), "--overwrite", "--layers", "1"]) == 0
    assert open_features(copy).names == ["cls-1", "mean-1"]


def test_damage_is_one_clear_line(flags, whole, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    file = copy / "train" / "00001" / "cls-1.npy"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"cls-1.npy is truncated"):
        open_features(copy).load("train", "cls-1")
    assert main([*flags, "--out", str(copy)]) == 0
    assert "is damaged" in capsys.readouterr().err and files(copy) == files(whole)
    with pytest.raises(UserError, match=r"no feature 'cls-3'"):
        open_features(copy).load("train", "cls-3")
    with pytest.raises(UserError, match="no features of the split 'test'"):
        open_features(copy).labels("test")
    with pytest.raises(UserError, match="no such folder"):
        open_features(tmp_path / "nowhere")
    (copy / "manifest.json").write_text('{"kind": "jaxdino features", "format": 9}')
    with pytest.raises(UserError, match="format 9"):
        open_features(copy)


def test_what_is_not_ours_is_never_deleted(flags, root, capsys):
    copy = root.parent / "mine"
    shutil.copytree(root, copy)
    assert main([*flags, "--out", str(copy), "--overwrite"]) == 2
    assert "give another --out" in capsys.readouterr().err and (copy / "train" / "red").is_dir()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--shard", "3/2"], "must be I/N"),
        (["--layers", "40"], "error: --layers=40 asks for blocks that the model does not have"),
        (["--augment", "lihgt"], "light"),
        (["--data.crop_pct=1"], "has no effect"),
    ],
)
def test_wrong_flags_are_refused_before_long_work(flags, more, words, tmp_path, capsys):
    assert main([*flags, "--out", str(tmp_path / "out"), *more]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_error_names_the_flag_of_this_command(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("path,red,round\na.png,1,1\nb.png,0,1\n")
    given = [*WEIGHTS, "--name", "manifest", "--root", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out")]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert "several classes for an image: --multilabel, or" in said and "--config" not in said
