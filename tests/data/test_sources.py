import dataclasses

import ml_collections
import numpy as np
import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.data.config import DataConfig
from jaxdino.data.sources import load_source
from jaxdino.data.splitting import stratified


def make_folder(root, counts):
    """Writes `counts` = {"train/cat": 3, ...} tiny images."""
    for place, count in counts.items():
        (root / place).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (i, 0, 0)).save(root / place / f"{i}.png")
    return root


def load(root, **options):
    return load_source({"name": "folder", "root": str(root), **options})


def test_digits_are_split_once_and_for_all():
    source = load_source(ml_collections.ConfigDict(dataclasses.asdict(DataConfig())))
    sizes = {name: len(split) for name, split in source.splits.items()}
    assert sizes == {"train": 1079, "val": 359, "test": 359}
    assert source.class_names == tuple("0123456789")
    record = source.split("train").records[0]
    assert record.shape == (8, 8, 3) and record.dtype == np.uint8
    assert max(image.max() for image in source.split("test").records) == 255
    assert min(source.split("test").counts().values()) >= 34
    again = load_source({"split_seed": 7, "test_ratio": 0.5})
    for name, split in source.splits.items():
        assert np.array_equal(np.stack(split.records), np.stack(again.split(name).records))


def test_digits_test_records_are_not_trained_on():
    from sklearn.datasets import load_digits

    splits = load_source({"name": "digits"}).splits
    together = np.concatenate([np.stack(split.records)[..., 0] for split in splits.values()])
    everything = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in everything)


@pytest.mark.parametrize("val", ["val", "validation", "valid"])
def test_folder_with_splits(tmp_path, val):
    counts = {"train/dog": 3, "train/cat": 4, f"{val}/cat": 2, "test/dog": 1, "test/cat/deep/er": 1}
    source = load(make_folder(tmp_path, counts))
    assert source.class_names == ("cat", "dog")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 7, "val": 2, "test": 2}
    train = source.split("train")
    assert [train.record_name(i) for i in (0, 6)] == ["train/cat/0.png", "train/dog/2.png"]
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1] and train.labels.dtype == np.int32
    assert source.split("test").record_name(0) == "test/cat/deep/er/0.png"


def test_one_folder_is_split_by_ratio_and_seed(tmp_path):
    make_folder(tmp_path, {"a": 10, "b": 20})
    first = load(tmp_path, val_ratio=0.2, test_ratio=0.1)
    assert first.split("train").counts() == {"a": 7, "b": 14}
    assert first.split("val").counts() == {"a": 2, "b": 4}
    assert first.split("test").counts() == {"a": 1, "b": 2}
    every = [path for split in first.splits.values() for path in split.records]
    assert len(set(every)) == 30
    assert load(tmp_path, test_ratio=0.1).split("val").records == first.split("val").records
    assert load(tmp_path, split_seed=1).split("val").records != first.split("val").records


def test_missing_val_comes_out_of_train(tmp_path):
    make_folder(tmp_path, {"train/a": 10, "train/b": 10, "test/a": 2, "test/b": 2})
    source = load(tmp_path, val_ratio=0.3)
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 14, "val": 6, "test": 4}


def test_named_splits(tmp_path):
    make_folder(tmp_path, {"train/a": 2, "train/b": 2, "dev/a": 1, "holdout/b": 1})
    source = load(tmp_path, val_split="dev", test_split="holdout")
    assert source.split("val").counts() == {"a": 1, "b": 0}
    with pytest.raises(UserError, match=r"devel.*found: dev"):
        load(tmp_path, val_split="devel")


def test_what_is_no_image_is_counted(tmp_path):
    make_folder(tmp_path, {"a": 5, "b": 5, ".cache": 1, "__MACOSX": 1})
    (tmp_path / "a" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "readme.md").write_text("x")
    (tmp_path / "b" / "0.png").rename(tmp_path / "b" / "0.PNG")
    source = load(tmp_path)
    assert sum(len(split) for split in source.splits.values()) == 10
    assert source.ignored == {"hidden": 3, "not an image (.txt)": 1, "outside the class folders (.md)": 1}


def test_a_class_may_be_called_train(tmp_path):
    assert load(make_folder(tmp_path, {"car": 5, "train": 5})).class_names == ("car", "train")


def test_adding_a_file_hardly_moves_the_others():
    keys = [f"image{i}" for i in range(101)]
    before = stratified(keys[:100], np.zeros(100, int), {"val": 0.2}, 0, ["a"])["val"]
    after = stratified(keys, np.zeros(101, int), {"val": 0.2}, 0, ["a"])["val"]
    assert len(set(before.tolist()) & set(after.tolist())) >= 19


def test_too_few_images_without_classes_are_not_called_a_class():
    with pytest.raises(UserError, match=r"among train, val: 1\. Add images, or name each split"):
        stratified(["a"], np.zeros(1, int), {"val": 0.2}, 0, [""])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no images under .*no class folders"),
        ({"train/a": 0, "train/b": 0}, "no images under"),
        ({"a": 3, "b": 0}, r"no images in the class folder\(s\) b .*images are in: a"),
        ({"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 0}, r"folder\(s\) b of .*\(val\)"),
        ({"train/cat": 3, "train/dog": 3, "val/cats": 1}, r"val has the class\(es\) cats \(nearest in train: cat\)"),
        ({"a": 4}, "only one class, 'a'"),
        (
            {"pets/a": 4, "pets/b": 4},
            "only one class, 'pets'.*2 folders of .*pets .a, b. are the classes, give .*=leaf, or .*root=.*pets",
        ),
        ({"val/a": 4, "val/b": 4}, "no train folder; found: val"),
        ({"train/a": 3, "train/b": 3, "val/a": 3, "valid/a": 3}, "both val and valid"),
        ({"a": 5, "b": 1}, r"too few images to divide among train, val, of 1 of the 2 classes: 'b' \(1\)\. Add"),
    ],
)
def test_errors_say_what_was_found(tmp_path, counts, message):
    with pytest.raises(UserError, match=message):
        load(make_folder(tmp_path, counts))


def test_a_missing_root_names_the_nearest(tmp_path):
    make_folder(tmp_path, {"flowers": 1})
    with pytest.raises(UserError, match=r"flower does not exist; nearest in .*: flowers"):
        load(tmp_path / "flower")
    with pytest.raises(UserError, match="is a file"):
        load(tmp_path / "flowers" / "0.png")
    with pytest.raises(UserError, match=r"--config\.data\.root"):
        load_source({"name": "folder"})


def test_an_unknown_split_says_what_was_found(tmp_path):
    source = load(make_folder(tmp_path, {"a": 5, "b": 5}))
    with pytest.raises(UserError, match=r"no split 'test'; found: train \(8 images\), val \(2 images\)"):
        source.split("test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "digit"}, "unknown data source 'digit'; nearest: digits"),
        ({"on_bda": "skip"}, "data has no field 'on_bda'; nearest: on_bad"),
        ({"on_bad": "ignore"}, "one of: skip, stop"),
        ({"val_ratio": 0.6, "test_ratio": 0.4}, "below 1"),
        ({"num_threads": -1}, "data.num_threads=-1 must be in"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(UserError, match=message):
        load_source(options)


def unlabelled(*roots):
    return load_source({"name": "images", "root": ",".join(str(root) for root in roots)})


def test_images_of_any_folders_without_labels(tmp_path):
    make_folder(tmp_path, {"b/train/cat": 2, "b/val/cat": 1, "a": 2, ".cache": 1})
    Image.new("RGB", (4, 4)).save(tmp_path / "loose.JPG")
    (tmp_path / "b" / "notes.txt").write_text("x")
    source = unlabelled(tmp_path)
    split = source.split("train")
    names = [split.record_name(i) for i in range(len(split))]
    assert names == ["a/0.png", "a/1.png", "b/train/cat/0.png", "b/train/cat/1.png", "b/val/cat/0.png", "loose.JPG"]
    assert split.labels.tolist() == [0] * 6 and split.labels.dtype == np.int32
    assert source.class_names == split.class_names == () and split.counts() == {}
    assert source.splits.keys() == {"train"} and source.ignored == {"hidden": 1, "not an image (.txt)": 1}


def test_images_of_several_roots(tmp_path):
    make_folder(tmp_path, {"b": 2, "a/deep": 1, "c,d": 1})
    split = unlabelled(tmp_path / "b", f" {tmp_path / 'a'}").split("train")
    assert [split.record_name(i) for i in range(3)] == ["b/0.png", "b/1.png", "a/deep/0.png"] and len(split) == 3
    assert len(unlabelled(tmp_path / "c,d").split("train")) == 1  # a folder of that name


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        ((), "'images' needs a folder of images: --config.data.root"),
        (("good", ""), "'images' needs a folder of images"),
        (("good", "god"), "god does not exist; nearest in .*: good"),
        (("good", "empty"), "no images under .*empty; passed over: 1 not an image \\(.txt\\)"),
    ],
)
def test_errors_of_unlabelled_images(tmp_path, roots, message):
    make_folder(tmp_path, {"good": 1, "empty": 0})
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=message):
        unlabelled(*(root and tmp_path / root for root in roots))
