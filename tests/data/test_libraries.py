"""Data sets of other libraries on the disk: TFDS and Hugging Face's datasets; nothing is downloaded."""

import io
import json
import pickle

import datasets
import numpy as np
import pytest
from PIL import Image

from jaxdino import prepare
from jaxdino.core.errors import UserError
from jaxdino.data.config import DataConfig
from jaxdino.data.identity import identify
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.sources import load_source
from jaxdino.data.sources.hf import HfStore
from tests.data import tfds_folder

CLASSES = ("cat", "dog")


def load(root, name, field="label", **options):
    return load_source({"name": name, "root": str(root), **options}, field)


def image_batches(source, workers=0):
    cfg = DataConfig(num_workers=workers)
    found = make_train_iter(source.splits["train"], cfg, seed=0, batch_size=3, image_size=8)
    batch = next(found)
    found.close()
    assert batch["weight"].all() and batch["image"].std() > 10
    assert batch["label"].tolist() == source.splits["train"].labels[batch["index"]].tolist()
    return batch


@pytest.fixture
def tfds(tmp_path):
    return tfds_folder.write(tmp_path, {"train": [0, 1, 0, 1], "test": [1, 0]}, CLASSES)


def test_tfds(tfds):
    for root, dataset in ((tfds, None), (tfds, "tiny"), (tfds, "tiny:1.0.0"), (tfds / "tiny" / "1.0.0", None)):
        source = load(root, "tfds", dataset=dataset, val_ratio=0)
        assert source.class_names == CLASSES
        assert {name: split.labels.tolist() for name, split in source.splits.items()} == {
            "train": [0, 1, 0, 1],
            "test": [1, 0],
        }
    assert source.splits["train"].record_name(3) == "train/3"
    for workers in (0, 1):
        image_batches(source, workers)
    digests = identify(source, contents=True).splits["train"]
    assert digests == identify(load(tfds, "tfds", val_ratio=0), contents=True).splits["train"]


def test_shares_of_tfds(tmp_path):
    root = tfds_folder.write(tmp_path, {"train": [n % 2 for n in range(10)]}, CLASSES)
    source = load(root, "tfds", val_ratio=0.2)
    assert {name: split.counts() for name, split in source.splits.items()} == {
        "train": dict(cat=4, dog=4),
        "val": dict(cat=1, dog=1),
    }
    names = {split.record_name(row) for split in source.splits.values() for row in range(len(split))}
    assert names == {f"train/{n}" for n in range(10)}


def test_several_labels_of_tfds(tmp_path):
    root = tfds_folder.write(tmp_path, {"train": [[0, 1], [1], [], [0]]}, CLASSES)
    source = load(root, "tfds", "labels", val_ratio=0)
    assert source.splits["train"].fields["labels"].tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]]
    with pytest.raises(UserError, match="none or several classes: use --config=multilabel"):
        load(root, "tfds", val_ratio=0)


def test_shards_of_tfds(tfds, tmp_path):
    out = tmp_path / "shards"
    args = ["--name", "tfds", "--root", str(tfds), "--out", str(out), "--data.val_ratio=0"]
    assert prepare.main(args) == 0
    one, other = image_batches(load(tfds, "tfds", val_ratio=0)), image_batches(load(out, "shards"))
    assert all(np.array_equal(value, other[key]) for key, value in one.items())


def test_what_is_refused_of_tfds(tfds):
    with pytest.raises(UserError, match=r"'tini' is not in .*found: tiny/1.0.0; nearest: tiny/1.0.0. Nothing is downl"):
        load(tfds, "tfds", dataset="tini")
    with pytest.raises(UserError, match="has no such image; nearest: image"):
        load(tfds, "tfds", image_column="imag")
    folder = tfds / "tiny" / "1.0.0"
    text = (folder / "features.json").read_text()
    (folder / "features.json").write_text(text.replace(f"{tfds_folder.FEATURES}.image_feature", "os.path"))
    with pytest.raises(UserError, match="is not one of TFDS, and is not loaded"):
        load(tfds, "tfds")
    (folder / "features.json").write_text(text)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="is stored as tfrecord, which cannot be read record by record"):
        load(tfds, "tfds")
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a data set of TFDS"):
        load(tfds, "tfds")


def rows(count, name=lambda n: n % 2):
    rng, found = np.random.default_rng(0), {"image": [], "label": []}
    for n in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(buffer, "PNG")
        found["image"].append({"bytes": buffer.getvalue(), "path": None})
        found["label"].append(name(n))
    return found


def table(count, label=None, **how):
    kind = label or datasets.ClassLabel(names=list(CLASSES))
    return datasets.Dataset.from_dict(rows(count, **how), datasets.Features({"image": datasets.Image(), "label": kind}))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_hf_saved_to_disk(tmp_path):
    datasets.DatasetDict({"train": table(6), "validation": table(2)}).save_to_disk(tmp_path / "d")
    source = load(tmp_path / "d", "hf")
    assert source.class_names == CLASSES and source.origins == {"val": "validation"}
    assert {name: split.labels.tolist() for name, split in source.splits.items()} == {
        "train": [0, 1] * 3,
        "val": [0, 1],
    }
    for workers in (0, 1):
        image_batches(source, workers)
    again = pickle.loads(pickle.dumps(source.splits["train"].records))
    assert again[5].open().read() == source.splits["train"].records[5].open().read() == rows(6)["image"][5]["bytes"]


def test_hf_parquet_and_texts(tmp_path):
    (tmp_path / "d" / "data").mkdir(parents=True)
    for split, count in {"train-00000-of-00002": 4, "train-00001-of-00002": 2, "test-00000-of-00001": 2}.items():
        one = table(count, datasets.Value("string"), name=lambda n: CLASSES[n % 2])
        one.to_parquet(tmp_path / "d" / "data" / f"{split}.parquet")
    source = load(tmp_path / "d", "hf", val_ratio=0.34)
    assert {name: split.counts() for name, split in source.splits.items()} == {
        "train": dict(cat=2, dog=2),
        "val": dict(cat=1, dog=1),
        "test": dict(cat=1, dog=1),
    }


def test_what_is_refused_of_hf(tmp_path):
    with pytest.raises(UserError, match="holds no parquet files; found: "):
        (tmp_path / "empty").mkdir()
        load(tmp_path / "empty", "hf")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="cannot be read by datasets"):
        load(tmp_path / "bad", "hf")
    table(4).save_to_disk(tmp_path / "d")
    with pytest.raises(UserError, match=r"data\.columns=lable: .* has no such classes; nearest: label"):
        load(tmp_path / "d", "hf", columns="lable")
    (tmp_path / "d" / "a.png").write_bytes(b"an image")
    paths = [{"image": {"bytes": None, "path": path}} for path in ("/etc/passwd", "../d2/a.png", None, "a.png")]
    store = HfStore(paths, "image", "train", str(tmp_path / "d"))
    for row in range(3):
        with pytest.raises(OSError, match=r"the image has no bytes, and its path .* is not in"):
            store.read(row)
    assert store.read(3) == b"an image"
