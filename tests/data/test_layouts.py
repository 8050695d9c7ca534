"""Layouts of folders that people have, and what is made of them."""

import os

import pytest

from jaxdino.core.errors import UserError
from jaxdino.data.sources import load_source
from jaxdino.train.data import summary

PETS = ("cat", "dog", "rat")


def make(root, places, loose=""):
    """Write empty files: {"train/cat": 3} or {"train/cat *.JPEG": 3}, and `loose` paths separated by blanks."""
    for place, count in places.items():
        folder, _, suffix = place.partition(" *")
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / folder / f"{i}{suffix or '.png'}").touch()
    for file in loose.split():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def each(*folders, classes=PETS, count=5):
    return {f"{folder}/{name}": count for folder in folders for name in classes}


def load(root, **options):
    return load_source({"name": "folder", "root": str(root), "val_ratio": 0.0, **options})


def told(root, **options):
    return summary(load(root, **options)).removeprefix("data: folder, ")


@pytest.mark.parametrize(
    ("places", "loose", "line"),
    [
        (each("Training", "Testing"), "", "3 classes; images: train 15 (Training), test 15 (Testing)"),
        (each("TRAIN", "Val"), "", "3 classes; images: train 15 (TRAIN), val 15 (Val)"),
        (each("train", "dev"), "", "3 classes; images: train 15, val 15 (dev)"),
        (  # Kaggle's chest X-rays
            each("train", "test", "val", classes=("NORMAL", "PNEUMONIA")) | each("chest_xray/train"),
            ".DS_Store __MACOSX/._x",
            "2 classes; images: train 10, val 10, test 10; ignored: 15 images in the folder chest_xray/, 2 hidden",
        ),
        (  # Roboflow
            each("train", "valid", "test"),
            "README.dataset.txt README.roboflow.txt",
            "3 classes; images: train 15, val 15 (valid), test 15; ignored: 2 outside the class folders (.txt)",
        ),
        (  # Tiny ImageNet
            {f"train/n{i}/images *.JPEG": 4 for i in range(3)} | {"val/images *.JPEG": 6, "test/images *.JPEG": 2},
            "words.txt val/val_annotations.txt train/n1/n1_boxes.txt",
            "3 classes; images: train 12; ignored: 2 images in the folder test/, which has no class folders, "
            "6 images in the folder val/, which has no class folders, 1 outside the class folders (.txt), "
            "1 not an image (.txt)",
        ),
        (  # ImageNet as Kaggle packs it
            {f"ILSVRC/Data/CLS-LOC/train/n{i} *.JPEG": 4 for i in range(3)} | {"ILSVRC/Data/CLS-LOC/test": 2},
            "ILSVRC/Annotations/train/a.xml LOC_sample.csv",
            "3 classes; images: train 12 (ILSVRC/Data/CLS-LOC/train); ignored: 1 file(s) in the folder Annotations/, "
            "2 images in the folder test/, which has no class folders, 1 outside the class folders (.csv)",
        ),
        (  # Intel's landscapes
            each("seg_train/seg_train", "seg_test/seg_test") | {"seg_pred/seg_pred": 2},
            "",
            "3 classes; images: train 15 (seg_train/seg_train), test 15 (seg_test/seg_test); "
            "ignored: 2 images in the folder seg_pred/",
        ),
        (each("images/train", "images/val"), "", "3 classes; images: train 15 (images/train), val 15 (images/val)"),
        (each("train/images", "val/images"), "", "3 classes; images: train 15 (train/images), val 15 (val/images)"),
        (each("pets/pets/train"), "", "3 classes; images: train 15 (pets/pets/train)"),
        (each("2750"), "", "3 classes; images: train 15 (2750)"),  # EuroSAT
        (  # Stanford Dogs
            each("images/Images"),
            "annotations/Annotation/cat/n02_1 lists/list.mat",
            "3 classes; images: train 15 (images/Images); ignored: 1 file(s) in the folder annotations/, "
            "1 file(s) in the folder lists/",
        ),
        (  # Caltech 101
            each("101_ObjectCategories", classes=("BACKGROUND_Google", "ant")),
            "Annotations/ant/annotation.mat",
            "2 classes; images: train 10 (101_ObjectCategories); ignored: 1 file(s) in the folder Annotations/",
        ),
        (  # fruits-360
            each("Training", "Test") | {"test-multiple_fruits": 3},
            "",
            "3 classes; images: train 15 (Training), test 15 (Test); "
            "ignored: 3 images in the folder test-multiple_fruits/",
        ),
        (
            each("train", "val") | {"extra": 120, "old": 0},
            "labels/a.txt labels/b.txt",
            "3 classes; images: train 15, val 15; ignored: 120 images in the folder extra/, "
            "2 file(s) in the folder labels/, 1 empty folder old/",
        ),
        (
            each("train") | {"test": 7},
            "train/x.png train/.ipynb_checkpoints/y.png train/cat/Thumbs.db train/dog/@eaDir/z.png",
            "3 classes; images: train 15; ignored: 7 images in the folder test/, which has no class folders, "
            "3 hidden, 1 outside the class folders (.png)",
        ),
        (
            each("train", "holdout"),
            "",
            "3 classes; images: train 15; ignored: 15 images in the folder holdout/\ndata: holdout/ has classes of "
            "train and is not used: --config.data.val_split=holdout, or test_split, makes it a split",
        ),
        (
            each("Garbage photos/Garbage photos"),
            "",
            "3 classes; images: train 15 (Garbage photos/Garbage photos)",
        ),
        (  # breast ultrasound, with masks among the images
            {"benign": 2, "normal": 2},
            "benign/1_mask.png normal/none_mask.png",
            "2 classes; images: train 6\n"
            "data: 1 images look like masks of others, such as 1_mask, and are read as images",
        ),
        (
            {"car": 3, "train": 3},
            "meta.csv",
            "2 classes; images: train 6; ignored: 1 outside the class folders (.csv)\ndata: train/ is read as a class, "
            "since it has no class folders: if it is a split without labels, move it away",
        ),
        (  # steel defects, with boxes in each split
            each("train/images", "val/images"),
            "train/annotations/1.xml val/annotations/1.xml",
            "3 classes; images: train 15 (train/images), val 15 (val/images); ignored: 2 file(s) in the folder "
            "annotations/",
        ),
        (
            each("train", "val", "extra"),
            "",
            "3 classes; images: train 15, val 15; ignored: 15 images in the folder extra/\ndata: extra/ has classes of "
            "train and is not used: --config.data.test_split=extra makes it a split",
        ),
        (
            {"Cat": 2, "cat": 2, "hot dog": 2, "hot_dog": 2},
            "",
            "4 classes; images: train 8\ndata: Cat and cat, hot dog and hot_dog are read as different classes: rename "
            "the folders if they are one",
        ),
        (  # a folder for each patch, a file for each band
            {},
            " ".join(f"S2_{i}/S2_{i}_{band}.tif" for i in range(3) for band in ("B02", "B03", "B8A")),
            "3 classes; images: train 9\ndata: all 3 classes hold files of the same names (B02, B03, B8A): if these "
            "are bands or views of one image, the folders are not classes",
        ),
        ({"cat *.JPG": 3, "dog/images *.Tiff": 3}, "", "2 classes; images: train 6"),
    ],
)
def test_what_is_understood(tmp_path, places, loose, line):
    assert told(make(tmp_path, places, loose)) == line


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"train": 5, "test": 2}, r"without class folders: .*5 in train/.*data.name=images.*if test, train are"),
        ({"train": 5, "valid": 2, "extra": 3}, "without class folders: 5 in train/, 2 in valid/"),
        ({"train": 5}, "without class folders: 5 in train/"),
        ({"jpg": 5}, "without class folders: 5 in jpg/"),
        ({"": 5}, "without class folders: 5 in it"),
        ({"train/images": 5, "train/labels *.txt": 5}, r"5 in train/images/.*tables \(.txt\) are not read"),
        (each("train", "val", "valid"), "both val and valid, and each could be the val split: .*val_split=val"),
        (each("Train", "train"), "both Train and train, .*train_split=Train"),
        (each("fold1", "fold2"), r"fold1, fold2 of .* hold the same 3 folders \(cat, dog, rat\), .*train_split=fold1"),
        (each("A") | each("B", classes=("cat", "dog")), "A, B of .* hold nearly the same 3 folders"),
        (each("color", "grayscale", "segmented"), "splits, variants, .*not classes.*train_split=color"),
        (  # patients, of whom some have one class only
            each("p1", "p2", "p3", classes=("0", "1")) | {"p4/0": 2},
            r"p4 of .* hold nearly the same 2 folders .*if 0, 1 are the classes in each, make one folder of each class",
        ),
        ({f"train_{band}": 3 for band in ("red", "nir", "gt")}, "3 in train_gt/, 3 in train_nir/, 3 in train_red/"),
        (
            each("fold1/train", "fold1/test", "fold2/train", "fold2/test"),
            "splits below classes .*each may be a data set of its own: --config.data.root=.*fold1$",
        ),
        (  # parts without defects to train on
            {"train/good": 3, "test/good": 2, "test/cut": 2},
            r"only the class 'good', and test has 2 \(cut, good\).*train_split=test --config.data.test_split=none",
        ),
        ({"a *.cr2": 2, "b *.nii.gz": 2}, r"b \(files: 2 .nii.gz\); .cr2 is a camera's raw file, .*rawpy"),
        (
            {"x/benign/SOB/a": 2, "x/malignant/SOB/b": 2},
            "only one class, 'x', .*benign, malignant.* are the classes, give --config.data.root=.*x$",
        ),
        (each("amazon/images", "dslr/images", "webcam/images"), "amazon, dslr, webcam of .* hold the same 3"),
        (each("cat", "dog", classes=("train", "test")), "splits below classes are not read; the layout is train/<cl"),
        (
            each("data/train", "data/val") | {"sample": 3},
            r"data holds train, val, so .*the folders of .* are data, sample. Give .*root=.*data;",
        ),
        (each("Training", "PublicTest", "PrivateTest"), "give .*train_split=Training .and val_split, test_split for"),
        (each("bus", "car", "train"), "holds bus, car beside train, .*train_split=train .*train_split=. "),
        ({"images": 5, "masks": 5}, "images and their masks, not like classes: .*data.name=masks"),
        (each("images", "segmentations"), "images and their masks"),
        ({"HAM_images_part_1": 5, "HAM_images_part_2": 4}, "5 in HAM_images_part_1/, 4 in HAM_images_part_2/"),
        ({f"images_{i:03}/images": 2 for i in range(12)}, "2 in images_000/, .* and 7 more.*if images_000"),
        (
            each("cars_train/cars_train", classes=("",)) | each("cars_test/cars_test", classes=("",)),
            "without class folders",
        ),
        (
            {"yes": 5, "no": 5, "tumours/yes": 5, "tumours/no": 5},
            r"tumours holds folders of the same names .*\(no, yes\)",
        ),
        (
            each("new/new/TRAIN", "new/new/TEST") | {"old/old/images": 3},
            r"new/new holds TEST, TRAIN, so .*root=.*new/new;",
        ),
        (
            each("COVID", "Normal", classes=("images", "masks")),
            r"2 class folder\(s\) .*\(COVID/images|masks, Normal/im",
        ),
        (each("train/COVID", "train/Normal", classes=("images", "masks")), "hold masks beside their images"),
        (each("test", "val"), "no train folder; found: val, test. Name it with .*train_split=NAME"),
        (each("trainval", "test"), r"found: test beside trainval. Name it with --config.data.train_split=trainval"),
        (each("test") | {"cat": 5, "dog": 5}, r"found: test beside cat, dog\. .*all of these are classes, .*train_spl"),
        ({"cat": 5, "dog *.psd": 5}, r"no images in the class folder\(s\) dog \(files: 5 .psd\)"),
        (
            {"train/hot_dog": 5, "train/cafe\u0301": 5, "val/Hot dog": 5, "val/caf\u00e9": 5},
            "hot_dog, the.*caf.+, the same",
        ),
        ({"train/a": 5, "train/b": 5, "val/a": 0, "val/b": 0}, r"no images under .*val: found the class folders a, b"),
        ({"train/Cat": 5, "train/dog": 5, "val/cat": 5}, "nearest in train: Cat, the same but for case, blanks"),
        (
            each("pets"),
            "only one class, 'pets', .*3 folders of .*pets .cat, dog, rat.* give .*=leaf, or .*root=.*pets",
        ),
    ],
)
def test_refused(tmp_path, places, message):
    with pytest.raises(UserError, match=message):
        load(make(tmp_path, places))


def test_archives_are_to_be_unpacked(tmp_path):
    with pytest.raises(UserError, match=r"no class folders; .*over: 2 outside .*\(\.zip\); unpack the archives"):
        load(make(tmp_path, {}, "train.zip test.zip"))


def test_flags_say_what_the_splits_are(tmp_path):
    variants = make(tmp_path / "a", each("color", "grayscale", "segmented"))
    chosen = told(variants, train_split="color", val_split="segmented")
    assert chosen.startswith(
        "3 classes; images: train 15 (color), val 15 (segmented); ignored: 15 images in the folder"
    )
    assert load(variants, train_split=".").class_names == ("color", "grayscale", "segmented")
    assert len(load(variants, train_split=".", classes="leaf").class_names) == 9
    deep = make(tmp_path / "b", each("one/pets/fit", "two/pets/hold"))
    assert told(deep, train_split="one/pets/fit", test_split="two/pets/hold").startswith(
        "3 classes; images: train 15 (one/pets/fit), test 15 (two/pets/hold)"
    )
    mixed = make(tmp_path / "c", each("test", count=1) | {name: 5 for name in PETS})
    assert told(mixed, train_split=".", test_split="test") == "3 classes; images: train 15, test 3"
    flat = make(tmp_path / "d", {"train": 5, "test": 5})
    assert load(flat, train_split=".").class_names == ("test", "train")
    doubled = make(tmp_path / "e", each("train", "val", "valid", "test"))
    assert told(doubled, val_split="valid").endswith("ignored: 15 images in the folder val/")
    assert told(doubled, val_split="none") == (
        "3 classes; images: train 15, test 15; ignored: 15 images in the folder val/, 15 images in the folder valid/"
    )
    assert set(load(doubled, val_split="none", test_split="none").splits) == {"train"}
    with pytest.raises(UserError, match=r"train_split is 'colour', .*found: color, grayscale, segmented"):
        load(variants, train_split="colour")
    unlabelled = make(tmp_path / "f", each("train") | {"val": 3})
    with pytest.raises(UserError, match=r"val folder .* holds 3 images without class folders.*val_split=none"):
        load(unlabelled, val_split="val")


def test_nested_groups_are_said_and_leaves_are_taken(tmp_path):
    make(tmp_path, {f"{split}/g{i % 3}/c{i:02}": 2 for split in ("train", "test") for i in range(81)})
    assert told(tmp_path) == (
        "3 classes; images: train 162, test 162\ndata: the 3 classes hold 81 folders of images (g0/c00, g0/c03, "
        "g0/c06, ...); --config.data.classes=leaf makes each of the 81 a class"
    )
    source = load(tmp_path, classes="leaf")
    assert told(tmp_path, classes="leaf") == "81 classes; images: train 162, test 162"
    assert source.class_names[:2] == ("g0/c00", "g0/c03")
    assert source.split("test").record_name(2) == "test/g0/c03/0.png" and source.split("test").labels[2] == 1


def test_leaves_that_are_the_classes_anyway_are_said(tmp_path):
    make(tmp_path, {f"train/{name}": 5 for name in ("a", "b")})
    assert load(tmp_path, classes="leaf").notes == (
        "--config.data.classes=leaf has no effect: no class folder holds folders of images",
    )
    assert load(tmp_path).notes == ()


def test_leaves_of_equal_names_stay_apart_and_agree_across_splits(tmp_path):
    make(tmp_path, {"train/a/x": 3, "train/b/x": 4, "train/b": 1, "val/a/x": 2})
    source = load(tmp_path, classes="leaf")
    assert source.split("train").counts() == {"a/x": 3, "b": 1, "b/x": 4}
    assert source.notes == ("val has no images of 2 of the 3 classes: b, b/x",)
    make(tmp_path, {"val/b/y": 1})
    with pytest.raises(UserError, match=r"val has the class\(es\) b/y \(nearest in train: b/x\) that train lacks"):
        load(tmp_path, classes="leaf")
    with pytest.raises(UserError, match=r"classes is 'leaves'; it is one of: top, leaf"):
        load(tmp_path, classes="leaves")


def test_splits_that_lack_classes_and_shares_are_said(tmp_path):
    make(tmp_path, each("train", count=10) | {"test/cat": 2})
    assert told(tmp_path, val_ratio=0.2) == (
        "3 classes; images: train 24, val 6 (20 % of train, stratified, seed 0), test 2\n"
        "data: test has no images of 2 of the 3 classes: dog, rat"
    )


def test_links_to_folders_are_followed_once(tmp_path):
    make(tmp_path, {"root/cat": 2, "root/dog": 2, "store/rat": 2, "store/more": 3})
    os.symlink(tmp_path / "store" / "rat", tmp_path / "root" / "rat")
    os.symlink(tmp_path / "store" / "more", tmp_path / "root" / "cat" / "more")
    os.symlink(tmp_path / "root", tmp_path / "root" / "dog" / "up")
    source = load(tmp_path / "root")
    assert source.split("train").counts() == {"cat": 5, "dog": 2, "rat": 2} and source.ignored == {"hidden": 1}


def test_unlabelled_images_say_that_splits_are_read_too(tmp_path):
    make(tmp_path, {"train": 3, "Testing": 2})
    lines = summary(load_source({"name": "images", "root": str(tmp_path)}))
    assert lines == (
        "data: images, no labels; images: train 5\n"
        "data: all folders are read, Testing too: to leave them out, set a lower root"
    )
