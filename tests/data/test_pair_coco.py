"""The source "coco": regions to masks, splits, and files that are none."""

import json

import numpy as np
import pytest
from pycocotools import mask as regions

from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from tests.data.pair_folders import MAX, listed, load, pairs, photo

# pycocotools 2.0.11 decodes in a way that numpy 2 frowns at
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def square(left, top, side):
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def coco_file(size=(20, 30)):
    """Two images: polygons, run lengths of both kinds, a crowd, a box without a region."""
    mask = np.zeros(size, np.uint8, order="F")
    mask[10:15, 3:9] = 1
    packed = regions.encode(mask)
    packed["counts"] = packed["counts"].decode()
    plain = {"size": list(size), "counts": [0, 60, size[0] * size[1] - 60]}  # the first three columns
    notes = [
        {"image_id": 1, "category_id": 7, "segmentation": [square(2, 3, 4), square(10, 3, 5)]},
        {"image_id": 1, "category_id": 7, "segmentation": packed, "iscrowd": 0},
        {"image_id": 1, "category_id": 7, "segmentation": plain, "iscrowd": 1},
        {"image_id": 1, "category_id": 9, "segmentation": plain, "iscrowd": 1},
        {"image_id": 2, "category_id": 9, "segmentation": [square(0, 0, 10)]},
        {"image_id": 2, "category_id": 7, "bbox": [0, 0, 1, 1]},
        {"image_id": 5, "category_id": 7, "segmentation": [square(0, 0, 10)]},
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "height": size[0], "width": size[1]} for i in (1, 2, 3)]
    names = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    return {"images": images, "annotations": notes, "categories": names}


def coco_folder(root, place="annotations/instances_train2017.json", images="train2017", given=None):
    file = root / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(given or coco_file()))
    for i in (1, 2, 3):
        photo(root / images / f"{i}.jpg", (20, 30))
    return root


@pytest.mark.parametrize(
    ("place", "images"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/instances_train.json", "images"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_coco(tmp_path, place, images):
    source = load(coco_folder(tmp_path, place, images), name="coco")
    assert source.class_names == ("cat", "dog")
    split = source.split("train")
    assert [row[:2] for row in listed(split)] == [(f"{images}/1.jpg", "cat"), (f"{images}/2.jpg", "dog")]
    assert [pair.prompt.present for pair in pairs(split)] == [(0, 1), (0, 1)]
    assert source.ignored == {
        "annotation without segmentation": 1,
        "annotation of an unknown image or category": 1,
        "image without annotation": 1,
        "crowd alone": 1,
    }
    expected = np.zeros((20, 30), np.uint8)
    expected[:, :3] = 255
    expected[3:7, 2:6], expected[3:8, 10:15], expected[10:15, 3:9] = 1, 1, 1
    assert np.array_equal(pairs(split)[0].prompt.read_mask(MAX), expected)
    assert pairs(split)[1].prompt.read_mask(MAX).sum() == 100


def test_coco_splits_and_own_files(tmp_path):
    coco_folder(tmp_path)
    coco_folder(tmp_path, "annotations/instances_val2017.json", "val2017")
    source = load(tmp_path, name="coco")
    assert [len(split) for split in source.splits.values()] == [2, 2]
    assert source.split("val").record_name(0) == "val2017/1.jpg"
    (tmp_path / "own.json").write_text(json.dumps(coco_file()))
    one = load(tmp_path, {"annotations": "annotations/instances_val2017.json"}, name="coco", val_ratio=0.5)
    assert {name: len(split) for name, split in one.splits.items()} == {"train": 1, "val": 1}
    coco_folder(tmp_path, "annotations/instances_val2014.json", "val2014")
    with pytest.raises(UserError, match=r"both val2014 and val2017, .*val split: .*val_split=val2014"):
        load(tmp_path, name="coco")
    chosen = load(tmp_path, name="coco", val_split="val2014")
    assert len(chosen.split("val")) == 2 and chosen.ignored["file annotations/instances_val2017.json"] == 1
    assert chosen.origins["val"] == "annotations/instances_val2014.json"
    assert "val" not in load(tmp_path, name="coco", val_split="none").splits


def test_flags_that_coco_does_not_read_are_refused(tmp_path):
    coco_folder(tmp_path)
    with pytest.raises(UserError, match=r"annotations names one file, .*leave \*_split None"):
        load(tmp_path, {"annotations": "annotations/instances_train2017.json"}, name="coco", val_split="val")
    with pytest.raises(UserError, match=r"classes=leaf is for data.name=folder; 'coco' does not read it"):
        load(tmp_path, name="coco", classes="leaf")


@pytest.mark.parametrize("names", [("Training", "Dev"), ("train_small", "val_small"), ("fit", "hold")])
def test_coco_files_of_other_names(tmp_path, names):
    for name in names:
        coco_folder(tmp_path, f"annotations/instances_{name}.json", "images")
    given = {} if names[0] != "fit" else {"train_split": "fit", "val_split": "hold"}
    assert set(load(tmp_path, name="coco", **given).splits) == {"train", "val"}
    if given:
        with pytest.raises(UserError, match=r"no annotations/instances_train.*train_split=NAME"):
            load(tmp_path, name="coco")


def test_regions_that_cannot_be_read_are_bad(tmp_path):
    given = coco_file()
    given["annotations"][0]["segmentation"] = {"size": [4, 4], "counts": [0, 16]}
    given["annotations"][4]["segmentation"] = [[1, 2, 3, 4]]
    split = load(coco_folder(tmp_path, given=given), name="coco").split("train")
    with pytest.raises(BadImage, match="its regions cannot be read"):
        pairs(split)[0].prompt.read_mask(MAX)
    with pytest.raises(BadImage, match="max_pixels = 599"):
        pairs(split)[0].prompt.read_mask(599)
    assert len(split) == 1  # no three points make no mask


def replaced(given, part, field, value):
    given[part][0][field] = value
    return given


def without(given, part, field=None):
    for entry in given[part] if field else ():
        entry.pop(field, None)
    if not field:
        given[part] = []
    return given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1], "is not a COCO instances file: its 'images' must be a list of entries with id, file_name"),
        (without(coco_file(), "images", "height"), "its 'images' must be a list"),
        (without(coco_file(), "categories", "id"), "its 'categories' must be a list of entries with id, name"),
        (without(coco_file(), "annotations"), "has no annotations"),
        (replaced(coco_file(), "images", "height", "20"), "height='20' of '1.jpg' is no number of pixels"),
        (replaced(coco_file(), "images", "width", -30), "width=-30 of '1.jpg' is no number of pixels"),
        (replaced(coco_file(), "images", "file_name", "../../1.jpg"), r"'../../1.jpg' leads out of the image folder"),
        (replaced(coco_file(), "images", "file_name", "/etc/1.jpg"), "leads out of the image folder"),
        (replaced(coco_file(), "images", "file_name", 3), "file_name=3 leads out of the image folder"),
        (replaced(coco_file(), "images", "file_name", "x" * 300), "or is too long"),
        (replaced(coco_file(), "categories", "id", [7]), r"id=\[7\] in 'categories' is neither a number nor a text"),
        (without(coco_file(), "annotations", "segmentation"), "boxes but no segmentation"),
    ],
)
def test_what_is_no_coco_file(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        load(coco_folder(tmp_path, given=given), name="coco")


def test_coco_files_that_are_missing(tmp_path):
    coco_folder(tmp_path, "annotations/boxes.json")
    with pytest.raises(UserError, match=r"no annotations/instances_train.*found: annotations/boxes.json"):
        load(tmp_path, name="coco")
    with pytest.raises(UserError, match=r"box.json does not exist; nearest: boxes.json"):
        load(tmp_path, {"annotations": "annotations/box.json"}, name="coco")
    coco_folder(tmp_path, images="elsewhere/deep")
    for i in (1, 2, 3):
        (tmp_path / "train2017" / f"{i}.jpg").unlink()
    with pytest.raises(UserError, match=r"such as 1.jpg, are in none of: .*train2017, .*images"):
        load(tmp_path, name="coco")
    (tmp_path / "annotations" / "boxes.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load(tmp_path, {"annotations": "annotations/boxes.json"}, name="coco")


def test_a_coco_file_of_other_sizes(tmp_path):
    given = coco_file()
    given["images"][0]["width"] = 31
    split = load(coco_folder(tmp_path, given=given), name="coco").split("train")
    assert len(split) == 2
    given["images"][1]["height"] = 21
    with pytest.raises(UserError, match=r"2 of 2 masks differ in size from their images, such as the entry 1 of"):
        load(coco_folder(tmp_path, given=given), name="coco")
