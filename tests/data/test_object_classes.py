"""Classes of images from the objects of VOC's XML files and of COCO's annotation files."""

import json

import numpy as np
import pytest

from jaxdino.core.errors import UserError
from jaxdino.data.sources import load_source
from tests.data.pair_folders import save

SHOWS = {"a": ["cat"], "b": ["dog", "cat", "dog"], "c": [], "d": ["dog"], "e": ["cat"], "f": ["dog", "cat"]}
IMAGE = np.zeros((4, 4, 3), np.uint8)


def xml(names):
    found = "".join(f"<object><name>{name}</name></object>" for name in names)
    return f"<annotation><filename>x.jpg</filename>{found}</annotation>"


@pytest.fixture
def voc(tmp_path):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for name, classes in SHOWS.items():
        save(tmp_path / "JPEGImages" / f"{name}.jpg", IMAGE)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(xml(classes))
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("e\nf\n")
    return tmp_path


@pytest.fixture
def coco(tmp_path):
    (tmp_path / "annotations").mkdir()
    ids = {"dog": 7, "cat": 3}
    for split, names in {"train": "abcd", "val": "ef"}.items():
        images = [dict(id=n, file_name=f"{name}.jpg", height=4, width=4) for n, name in enumerate(names)]
        notes = [
            dict(image_id=n, category_id=ids[shown], bbox=[0, 0, 1, 1])
            for n, name in enumerate(names)
            for shown in SHOWS[name]
        ]
        text = dict(images=images, annotations=notes, categories=[dict(id=i, name=n) for n, i in ids.items()])
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(text))
        for name in names:
            save(tmp_path / f"{split}2017" / f"{name}.jpg", IMAGE)
    return tmp_path


def load(root, name, field="labels", **options):
    return load_source({"name": name, "root": str(root), **options}, field)


def labels(source):
    return {name: split.fields["labels"].tolist() for name, split in source.splits.items()}


def test_voc(voc):
    source = load(voc, "voc")
    assert source.class_names == ("cat", "dog") and source.name == "voc"
    assert labels(source) == {"train": [[1, 0], [1, 1], [0, 0], [0, 1]], "val": [[1, 0], [1, 1]]}
    assert [source.splits["train"].record_name(i) for i in (0, 3)] == ["JPEGImages/a.jpg", "JPEGImages/d.jpg"]
    (voc / "classes.txt").write_text("dog\ncat\neel\n")
    source = load(voc, "voc")
    assert source.class_names == ("dog", "cat", "eel") and labels(source)["val"] == [[0, 1, 0], [1, 1, 0]]
    (voc / "classes.txt").write_text("dog\nrat\n")
    with pytest.raises(UserError, match=r"a\.xml: the class 'cat' is not in .*classes\.txt"):
        load(voc, "voc")


def test_coco(coco):
    source = load(coco, "coco")
    assert source.class_names == ("dog", "cat") and source.name == "coco"
    assert labels(source) == {"train": [[0, 1], [1, 1], [0, 0], [1, 0]], "val": [[0, 1], [1, 1]]}
    assert source.splits["val"].record_name(0) == "val2017/e.jpg"


def test_a_share_without_lists(voc):
    for name in ("train", "val"):
        (voc / "ImageSets" / "Main" / f"{name}.txt").unlink()
    source = load(voc, "voc", val_ratio=0.34)
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 4, "val": 2}
    assert source.splits["train"].fields["labels"].any(0).all()


@pytest.mark.parametrize("name", ["voc", "coco"])
def test_one_class_for_each_image(name, request):
    root = request.getfixturevalue(name)
    with pytest.raises(UserError, match=r"2 of 6 images .* several classes, such as .*b\.jpg \(.*--config=multilabel"):
        load(root, name, "label")


def test_images_of_one_object(voc):
    for name, classes in SHOWS.items():
        (voc / "Annotations" / f"{name}.xml").write_text(xml(classes[:1]))
    source = load(voc, "voc", "label")
    assert {name: split.counts() for name, split in source.splits.items()} == {
        "train": {"cat": 1, "dog": 2},
        "val": {"cat": 1, "dog": 1},
    }
    assert source.ignored == {"image without an object": 1}


def test_annotations_that_are_missing_or_damaged(voc):
    (voc / "Annotations" / "a.xml").unlink()
    (voc / "Annotations" / "b.xml").write_text("<annotation><obj")
    with pytest.raises(UserError, match=r"of 2 of 6 images are missing or .*a\.jpg \(it has none\), .*b\.jpg"):
        load(voc, "voc")
    (voc / "Annotations" / "c.xml").write_text(xml(["cat"]))
    source = load(voc, "voc", max_missing=0.5)
    assert source.ignored == {"image whose annotation is missing or not readable": 2}
    assert labels(source)["train"] == [[1, 0], [0, 1]]
