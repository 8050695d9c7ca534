"""Masks whose values are classes: what each value becomes, what is ignored, and folders of any names."""

import json

import numpy as np
import pytest

from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.data.class_masks import ClassMask, class_table, folders_of_splits, paired
from jaxdino.data.mask_survey import survey
from jaxdino.data.sources.class_maps import named_values
from tests.data.pair_folders import MAX, masks_folder, save, with_ones


def table_of(root, masks, classes, background=True, where="classes.json", **options):
    """The table and the notes of a folder of masks."""
    masks_folder(root, masks, **options)
    files = [(str(root / "images" / f"{name}.png"), str(root / "masks" / f"{name}.png")) for name in masks]
    seen = survey(files, MAX, indexed=True)
    return class_table(classes, [path for _, path in files], seen, where, background)


def counts(path, table):
    labels = ClassMask(str(path), table)(MAX)
    assert labels.dtype == np.uint8 and labels.shape == (8, 10)
    return dict(zip(*(each.tolist() for each in np.unique(labels, return_counts=True)), strict=True))


def test_values_become_classes_and_the_background_is_one(tmp_path):
    masks = {"a": with_ones(2, 2, 255), "b": with_ones(9, 5)}
    table, notes = table_of(tmp_path, masks, {2: "cat", 5: "dog", 6: "cat", 7: "bird"}, palette=True)
    assert table.names == ("background", "cat", "dog", "bird")
    assert counts(tmp_path / "masks" / "a.png", table) == {0: 65, 1: 10, 255: 5}
    assert counts(tmp_path / "masks" / "b.png", table) == {0: 70, 2: 5, 255: 5}
    assert notes == (
        'value 0, which classes.json does not name, is the class "background"',
        "pixels of values without a class are ignored: 9 (in 1 mask, such as masks/b.png), "
        "255 (in 1 mask, such as masks/a.png)",
        "no mask has the class bird",
    )


def test_a_background_may_be_ignored_or_have_a_name(tmp_path):
    table, notes = table_of(tmp_path, {"a": with_ones(1, 2)}, {1: "cat", 2: "dog"}, background=False)
    assert table.names == ("cat", "dog") and counts(tmp_path / "masks" / "a.png", table) == {0: 5, 1: 5, 255: 70}
    assert notes == ("pixels of values without a class are ignored: 0 (in 1 mask, such as masks/a.png)",)
    for background in (True, False):
        table, notes = table_of(tmp_path, {"a": with_ones(1)}, {0: "ground", 1: "cat"}, background)
        assert table.names == ("ground", "cat") and notes == ()
    full = {"a": with_ones(1) + np.uint8(1)}
    table, notes = table_of(tmp_path, full, {1: "cat", 2: "dog"})  # no mask has value 0
    assert table.names == ("cat", "dog") and notes == ()
    table, _ = table_of(tmp_path, {"a": with_ones(3)}, {1: "cat", 3: "background"})
    assert table.names == ("background", "cat") and counts(tmp_path / "masks" / "a.png", table) == {0: 80}


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 1000), (np.uint16, 65535), (bool, 1)])
def test_masks_of_any_number_type(tmp_path, dtype, top):
    table, _ = table_of(tmp_path, {"a": with_ones(top, dtype=dtype)}, {top: "sky"})
    assert counts(tmp_path / "masks" / "a.png", table) == {0: 75, 1: 5}  # a named 255 is a class


def test_negative_values_and_large_ones(tmp_path):
    table, _ = table_of(tmp_path, {"a": with_ones(7)}, {-1: "void", 7: "cat", 70000: "dog"})
    values = np.array([[-1, 7, 70000, 8, -2, 0, 10**9]], np.int32)
    assert table.classes(values).tolist() == [[0, 2, 3, 255, 255, 1, 255]]


def test_files_of_names(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n\ndog\n")
    assert named_values(tmp_path / "classes.txt") == {1: "cat", 3: "dog"}
    (tmp_path / "classes.txt").write_text("Background\ncat\ndog\n")
    assert named_values(tmp_path / "classes.txt") == {0: "background", 1: "cat", 2: "dog"}
    (tmp_path / "classes.json").write_text(json.dumps({"10": "dog", "2": "cat"}))
    assert named_values(tmp_path / "classes.json") == {2: "cat", 10: "dog"}


def test_a_list_that_may_start_at_value_0(tmp_path):
    """Masks of values 0 to 2 with a classes.txt of three lines."""
    _, notes = table_of(tmp_path, {"a": with_ones(1, 2)}, {1: "sky", 2: "road", 3: "car"}, where="root/classes.txt")
    assert notes[-1] == (
        "no mask has the class car: if line 1 of root/classes.txt names value 0, give the values in a classes.json "
        "instead"
    )


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({4: "cat", 5: "dog"}, "classes.json names the values 4, 5, but the masks, such as .*a.png, have 0, 1, 2"),
        ({0: "cat"}, r"gives 1 class \(cat\); there must be 2 to 255"),
        ({value: f"{value}" for value in range(256)}, r"gives 256 classes \(0, 1, 2, 3, 4, 5, 6, 7 and 248 more\)"),
    ],
)
def test_classes_that_do_not_fit(tmp_path, classes, message):
    with pytest.raises(UserError, match=message):
        table_of(tmp_path, {"a": with_ones(1, 2)}, classes)


def test_masks_that_cannot_be_read(tmp_path):
    table, notes = table_of(tmp_path, {"a": with_ones(1, 2)}, {1: "cat", 2: "dog"})
    (tmp_path / "masks" / "a.png").write_text("hello")
    with pytest.raises(BadImage, match=r"its mask masks/a.png cannot be read: UnidentifiedImageError"):
        ClassMask(str(tmp_path / "masks" / "a.png"), table)(MAX)
    with pytest.raises(BadImage, match=r"its mask masks/b.png does not exist"):
        ClassMask(str(tmp_path / "masks" / "b.png"), table)(MAX)
    jpeg = save(tmp_path / "masks" / "c.jpg", with_ones(1))
    with pytest.raises(BadImage, match=r"its mask masks/c.jpg is a JPEG"):
        ClassMask(str(jpeg), table)(MAX)
    seen = survey([(str(tmp_path / "images" / "a.png"), str(tmp_path / "masks" / "a.png"))], MAX, indexed=True)
    unread, notes = class_table({1: "cat", 2: "dog"}, ["a.png"], seen, "classes.json")
    assert unread.names == ("cat", "dog") and notes == ()


def test_masks_are_paired_by_name():
    assert paired({"a": "a.jpg", "b": "b.jpg"}, {"a": "a.png", "a_mask": "x", "c": "c.png"}) == ({"a": "a.png"}, "")
    images = {"x/1": "1.jpg", "x/10": "10.jpg", "x/2": "2.jpg"}
    masks = {"x/1_L": "1.png", "x/10_L": "10.png", "x/3_L": "3.png"}
    assert paired(images, masks) == ({"x/1": "1.png", "x/10": "10.png"}, "_L")
    assert paired(images, {"y": "y.png"}) == ({}, "") and paired(images, {}) == ({}, "")


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def relative(found, root):
    return {split: [path.relative_to(root).as_posix() for path in pair] for split, pair in found.items()}


NO_SPLITS = dict.fromkeys(("train", "val", "test"))


@pytest.mark.parametrize(
    ("images", "masks", "others"),
    [
        ("train", "trainannot", {"val": ["val", "valannot"], "test": ["test", "testannot"]}),
        (
            "images/training",
            "annotations/training",
            {"val": ["images/validation", "annotations/validation"]},
        ),
        ("Train/img", "Train/gt", {"val": ["Valid/img", "Valid/gt"]}),
        ("img/train", "labels", {"test": ["img/test", "labels"]}),
        ("photos", "labels", {}),
        ("train_images", "labels", {}),
    ],
)
def test_folders_of_any_names(tmp_path, images, masks, others):
    pairs = [images, masks, *(name for pair in others.values() for name in pair)]
    folders(tmp_path, *dict.fromkeys(pairs))
    (tmp_path / "Extra").mkdir()
    found = folders_of_splits(tmp_path, images, masks, NO_SPLITS)
    assert relative(found, tmp_path) == {"train": [images, masks], **others}
    alone = folders_of_splits(tmp_path, images, masks, NO_SPLITS | {"train": "."})
    assert relative(alone, tmp_path) == {"train": [images, masks]}


def test_given_words_of_splits(tmp_path):
    folders(tmp_path, "train", "trainannot", "val", "valannot", "day2", "day2annot")
    given = NO_SPLITS | {"val": "day2", "test": "val"}
    found = relative(folders_of_splits(tmp_path, "train", "trainannot", given), tmp_path)
    assert found == {
        "train": ["train", "trainannot"],
        "val": ["day2", "day2annot"],
        "test": ["val", "valannot"],
    }
    none = folders_of_splits(tmp_path, "train", "trainannot", NO_SPLITS | {"val": "none"})
    assert list(none) == ["train"]


@pytest.mark.parametrize(
    ("images", "masks", "given", "message"),
    [
        ("trian", "trainannot", {}, r"data.images is 'trian', and .* has no such folder; nearest: train"),
        ("train", "masks", {}, r"data.masks is 'masks', and .* has no such folder; nearest:"),
        ("train", "./train", {}, "data.images and data.masks are both 'train'"),
        ("train", "trainannot", {"train": "train"}, "leave train_split out"),
        ("train", "trainannot", {"val": "train"}, r"val_split is 'train', but .* has no folders like"),
        (
            "train",
            "trainannot",
            {"val": "day3"},
            r"val_split is 'day3', but .* 'day3' in place of \"train\"; found",
        ),
        ("train", "trainannot", {}, r"could each be the val split: --config.data.val_split=val"),
    ],
)
def test_folders_that_do_not_fit(tmp_path, images, masks, given, message):
    folders(tmp_path, "train", "trainannot", "val", "valannot", "valid", "validannot")
    with pytest.raises(UserError, match=message):
        folders_of_splits(tmp_path, images, masks, NO_SPLITS | given)
