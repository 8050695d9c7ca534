"""Where the splits of images with masks come from."""

import json

import pytest

from jaxdino.core.errors import UserError
from tests.data.pair_folders import listed, load, masks_folder, save, with_ones


def test_splits_in_folders_and_by_ratio(tmp_path):
    for split in ("train", "valid"):
        masks_folder(tmp_path / "s" / split, {f"{split}{i}": with_ones(1) for i in range(5)})
    source = load(tmp_path / "s", {"prompt": "x"}, test_ratio=0.2)
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 4, "val": 5, "test": 1}
    assert source.split("val").record_name(0) == "valid/images/valid0.png"
    flat = masks_folder(tmp_path / "f", {f"{i:02}": with_ones(1, 2) for i in range(20)} | {"bare": None})
    (flat / "classes.json").write_text('{"1": "cat", "2": "dog"}')
    first = load(flat, val_ratio=0.2, test_ratio=0.1)
    images = {name: set(split.records) for name, split in first.splits.items()}
    assert {name: len(found) for name, found in images.items()} == {"train": 14, "val": 4, "test": 2}
    assert len(set.union(*images.values())) == 20  # all pairs of an image are in one split
    again = load(flat, val_ratio=0.2, test_ratio=0.1, split_seed=1)
    assert set(again.split("val").records) != images["val"]


def test_splits_by_other_names_and_flags(tmp_path):
    for split, count in (("Training", 5), ("dev", 2), ("extra", 1)):
        masks_folder(tmp_path / "s" / split, {f"{i}": with_ones(1) for i in range(count)})
    source = load(tmp_path / "s", {"prompt": "x"}, test_ratio=0.2)
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 4, "val": 2, "test": 1}
    assert source.origins == {"train": "Training", "val": "dev", "test": "20 % of train, seed 0"}
    assert source.ignored == {"images in the folder extra/": 2}
    with pytest.raises(UserError, match=r"test_split is 'Extra', which is not in .*; found: Training, dev, extra"):
        load(tmp_path / "s", {"prompt": "x"}, test_split="Extra")


def test_train_beside_images_is_the_split(tmp_path):
    masks_folder(tmp_path / "train", {"a": with_ones(1), "b": with_ones(1)})
    masks_folder(tmp_path, {"c": with_ones(1)})
    source = load(tmp_path, {"prompt": "x"})
    assert [row[0] for row in listed(source.split("train"))] == ["train/images/a.png", "train/images/b.png"]
    assert source.ignored == {"images in the folder images/": 1, "images in the folder masks/": 1}


def test_splits_inside_images_and_masks(tmp_path):
    masks = {"train/a": with_ones(1), "train/b": with_ones(1), "Val/a": with_ones(1)}
    masks_folder(tmp_path, masks)
    source = load(tmp_path, {"prompt": "x"})
    assert [listed(split) for split in source.splits.values()] == [
        [("images/train/a.png", "x", (5, 0)), ("images/train/b.png", "x", (5, 0))],
        [("images/Val/a.png", "x", (5, 0))],
    ]
    (tmp_path / "prompts.json").write_text(json.dumps({"train/b": "left", "Val/a": "left"}))
    assert {name: len(split) for name, split in load(tmp_path).splits.items()} == {"train": 1, "val": 1}
    whole = load(tmp_path, {"prompt": "x"}, train_split=".")
    assert {name: len(split) for name, split in whole.splits.items()} == {"train": 3}
    for prompt in ("red", "blue"):
        (tmp_path / "prompts.json").unlink(missing_ok=True)
        save(tmp_path / "masks" / "train" / prompt / "a.png", with_ones(9))
        save(tmp_path / "masks" / "Val" / prompt / "a.png", with_ones(9))
    assert [row[1] for row in listed(load(tmp_path).split("val"))] == ["blue", "red"]
    (tmp_path / "masks" / "Val").rename(tmp_path / "masks" / "val")
    with pytest.raises(UserError, match=r"has the splits train, Val, but .*masks has no folder Val; found: train, val"):
        load(tmp_path, {"prompt": "x"})
