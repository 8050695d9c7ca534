"""Boxes of VOC's and COCO's files: good ones are not reported, every kind of bad one is."""

import json

import planted
import pytest

from jaxdino.check_data import main


def run(root, name, *flags):
    out = root.parent / "found.json"
    assert main([f"--root={root}", f"--name={name}", f"--json={out}", "--min_samples_per_class=1", *flags]) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize("make", ["voc", "coco"])
def test_good_boxes(make, tmp_path):
    found = run(getattr(planted, make)(tmp_path / "data"), make, "--strict")
    assert found["bad_boxes"] == []
    images = {"voc": 3, "coco": 2}[make]
    assert found["images"] == {"train": images, "val": 1}
    assert found["boxes"] == found["classes"] == {key: {"train": images, "val": 1} for key in ("cat", "dog")}


BAD = [
    ((30, 30, 30, 80), "it has no area"),
    ((30, 30, 80, 30), "it has no area"),
    ((80, 30, 30, 80), "its right or bottom side comes before the left or top one"),
    ((30, 30, 241.5, 80), "it reaches out of the image, 240 x 240"),
    ((-1.5, 30, 80, 80), "it reaches out of the image, 240 x 240"),
    ((30, 30, 80, "x"), "its corners are not four numbers"),
    ((30, 30, 80, "nan"), "its corners are not four numbers"),
    ((30, 30, 80, "1e999"), "its corners are not four numbers"),
]


@pytest.mark.parametrize(("box", "reason"), BAD)
def test_bad_boxes_of_voc(box, reason, tmp_path):
    root = planted.voc(tmp_path / "data")
    (root / "Annotations/1.xml").write_text(planted.xml([("cat", (0, 0, 241, 241)), ("dog", box)]))
    found = run(root, "voc")
    image = str(root / "JPEGImages/1.jpg")
    assert found["bad_boxes"] == [[image]]
    (bad,) = found["bad_box_list"]
    assert (bad["image"], bad["annotation"]) == (image, str(root / "Annotations/1.xml"))
    assert (bad["class"], bad["reason"]) == ("dog", reason)
    assert image in found["reasons"]["bad_boxes"]


def test_classes_that_the_list_of_classes_lacks(tmp_path):
    root = planted.voc(tmp_path / "data")
    (root / "classes.txt").write_text("cat\n")
    found = run(root, "voc")
    assert [len(found["bad_boxes"]), {bad["class"] for bad in found["bad_box_list"]}] == [4, {"dog"}]
    assert {bad["reason"] for bad in found["bad_box_list"]} == {"its class is not known"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation><object>", "is no XML"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>', "document type"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "annotation"),
        ("<!DOCTYPE annotation><annotation/>", "document type"),
        ("", "is no XML"),
    ],
)
def test_annotations_that_cannot_be_read(text, words, tmp_path):
    root = planted.voc(tmp_path / "data")
    (root / "Annotations/0.xml").write_text(text)
    found = run(root, "voc")
    assert found["bad_boxes"] == [[str(root / "JPEGImages/0.jpg")]]
    assert words in found["bad_box_list"][0]["reason"] and found["bad_box_list"][0]["corners"] == []


def test_voc_without_lists_is_divided_and_images_without_annotations_are_counted(tmp_path):
    root = planted.voc(tmp_path / "data", lists=False)
    (root / "Annotations/2.xml").unlink()
    found = run(root, "voc", "--data.val_ratio=0.25")
    assert found["images"] == {"train": 3, "val": 1} and found["ignored"] == {"image without annotation": 1}


def test_lists_of_a_class_and_names_without_images(tmp_path):
    root = planted.voc(tmp_path / "data")
    (root / "ImageSets/Main/cat_train.txt").write_text("0 1\n")
    (root / "ImageSets/Main/train.txt").write_text("0  1\n1 -1\n9 1\n")
    found = run(root, "voc")
    assert found["images"] == {"train": 2, "val": 1}
    counts = {"list of names that is not used": 1, "name without an image": 1, "image in no list that is used": 1}
    assert found["ignored"] == counts


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([10, 10, 0, 20], "it has no area"),
        ([10, 10, 20, -5], "its right or bottom side comes before the left or top one"),
        ([200, 10, 42, 20], "it reaches out of the image, 240 x 240"),
        ([10, 10, 20], "its corners are not four numbers"),
        ([10, 10, "20", 5], "its corners are not four numbers"),
    ],
)
def test_bad_boxes_of_coco(box, reason, tmp_path):
    root = planted.coco(tmp_path / "data", [{"image_id": 0, "category_id": 2, "bbox": box}])
    found = run(root, "coco")
    assert found["bad_boxes"] == [[str(root / "train/0.jpg")]]
    assert [(bad["class"], bad["reason"]) for bad in found["bad_box_list"]] == [("dog", reason)]


def test_unknown_categories_and_boxes_to_the_edge_of_coco(tmp_path):
    notes = [{"image_id": 0, "category_id": 7, "bbox": [1, 1, 5, 5]}, {"image_id": 9, "category_id": 1, "bbox": []}]
    notes += [{"image_id": 0, "category_id": 1, "bbox": [0, 0, 241, 241]}, {"image_id": 0, "category_id": 1}]
    found = run(planted.coco(tmp_path / "data", notes), "coco")
    assert [bad["reason"] for bad in found["bad_box_list"]] == ["its class is not known"]
    assert found["ignored"] == {"annotation of an unknown image": 1, "annotation without a box": 1}


def test_one_annotation_file(tmp_path):
    root = planted.coco(tmp_path / "data")
    flags = ["--prompts.annotations=annotations/instances_train.json", "--data.val_ratio=0.5"]
    assert run(root, "coco", *flags)["images"] == {"train": 1, "val": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "JPEGImages").rename(root / "images"), "has no folder JPEGImages; found: "),
        (lambda root: (root / "ImageSets/Main/train.txt").unlink(), "has no train.txt; found: val"),
        (lambda root: (root / "ImageSets/Main/val.txt").write_text("8\n"), "none of them has an image"),
    ],
)
def test_folders_that_are_not_voc(change, words, tmp_path, capsys):
    root = planted.voc(tmp_path / "data")
    change(root)
    assert main([f"--root={root}", "--name=voc"]) == 2
    shown = capsys.readouterr().err
    assert words in shown and shown.count("\n") == 1
