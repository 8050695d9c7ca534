"""The identity of a data set, for every kind of field."""

import dataclasses
import re

import numpy as np
import pytest

from jaxdino.data import identity
from jaxdino.data.changes import changes
from jaxdino.data.class_masks import ClassMask, ClassTable
from jaxdino.data.config import DataConfig
from jaxdino.data.identity import identify, printable
from jaxdino.data.mask_reading import FileMask
from jaxdino.data.packed import Texts
from jaxdino.data.prompted import Prompt
from jaxdino.data.record import Source, Split
from jaxdino.data.sources import load_source
from jaxdino.data.sources.coco import RegionMask

NAMES = ("cat", "dog")
TABLE = ClassTable(NAMES, ((0, 0), (1, 1)))
SQUARE = [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]]


@pytest.fixture
def root(tmp_path):
    for name in ("a.png", "b.png", "m.png", "n.png"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def source(root, **fields):
    files = [str(root / name) for name in ("a.png", "b.png")]
    return Source("test", NAMES, {"train": Split("train", files, fields, NAMES, str(root))})


def prompt(mask, **more):
    return (Prompt(0, mask, (0,), **more),)


FIELDS = {  # field: (values, changed values, what is said)
    "label": (np.array([0, 1]), np.array([1, 1]), r"labels of 1 record differ: a.png \(cat -> dog\)"),
    "labels": (
        np.array([[1, 1], [0, 0]], np.float32),
        np.array([[1, 0], [0, 0]], np.float32),
        r"labels of 1 record differ: a.png \(cat, dog -> cat\)",
    ),
    "class_mask": (
        lambda root: [ClassMask(str(root / name), TABLE) for name in ("m.png", "n.png")],
        lambda root: [
            ClassMask(str(root / "m.png"), TABLE),
            ClassMask(str(root / "n.png"), dataclasses.replace(TABLE, places=((0, 1), (1, 0)))),
        ],
        "labels, masks or prompts of 1 record differ: b.png",
    ),
    "prompts": (
        lambda root: [prompt(FileMask(str(root / "m.png"))), prompt(FileMask(str(root / "n.png"), (1,)))],
        lambda root: [prompt(FileMask(str(root / "m.png"))), prompt(FileMask(str(root / "n.png"), (2,)))],
        "labels, masks or prompts of 1 record differ: b.png",
    ),
    "regions": (
        lambda root: [prompt(RegionMask((SQUARE,), (), (9, 9))), prompt(None)],
        lambda root: [prompt(RegionMask(([[*SQUARE[0][:5], 5.0]],), (), (9, 9))), prompt(None)],
        "labels, masks or prompts of 1 record differ: a.png",
    ),
    "arrays": (
        lambda root: [prompt(np.zeros((3, 3), np.uint8)), prompt(np.ones((3, 3), np.uint8))],
        lambda root: [prompt(np.zeros((3, 3), np.uint8)), prompt(np.eye(3, dtype=np.uint8))],
        "labels, masks or prompts of 1 record differ: b.png",
    ),
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_change_in_any_field_is_named(field, root):
    there, now, words = FIELDS[field]
    there, again, now = (one(root) if callable(one) else one for one in (there, there, now))
    before = identify(source(root, x=there))
    assert changes(before, identify(source(root, x=again))) == []
    (line,) = changes(before, identify(source(root, x=now)))
    assert re.fullmatch(words, line), line


def test_the_size_and_contents_of_a_mask_count(root):
    made = source(root, class_mask=FIELDS["class_mask"][0](root))
    before, full = identify(made), identify(made, contents=True)
    (root / "m.png").write_bytes(b"other")
    assert changes(full, identify(made)) == []  # contents were not read now
    assert changes(full, identify(made, contents=True)) == ["contents of 1 record differ: a.png"]
    (root / "m.png").write_bytes(b"longer")
    assert changes(before, identify(made)) == ["sizes of 1 record differ: a.png (5,5 -> 5,6)"]
    (root / "m.png").unlink()
    assert changes(before, identify(made)) == ["sizes of 1 record differ: a.png (5,5 -> 5,-)"]


@pytest.mark.parametrize(("name", "field"), [("digits", "label"), ("shapes", "prompts"), ("shapes", "class_mask")])
def test_embedded_arrays_have_digests(name, field):
    made = load_source(DataConfig(name=name), field)
    before = identify(made)
    assert all(split["contents"] for split in before.splits.values())
    train = made.split("train")
    records = [*train.records]
    records[1] = records[1] ^ 1
    other = dataclasses.replace(made, splits=made.splits | {"train": dataclasses.replace(train, records=records)})
    assert changes(before, identify(made)) == []
    assert changes(before, identify(other)) == ["contents of 1 record differ: train[1]"]


def test_without_the_list_of_files_the_kind_of_change_is_said(root):
    before = dataclasses.replace(identify(source(root, x=np.array([0, 1]))), records={})
    (line,) = changes(before, identify(source(root, x=np.array([1, 1]))))
    assert line == "train: labels differ (the list of files is missing)"


def test_a_moved_folder_is_the_same_data(root, tmp_path_factory):
    before = identify(source(root, class_mask=FIELDS["class_mask"][0](root)))
    other = root.rename(tmp_path_factory.mktemp("other") / "place")
    assert changes(before, identify(source(other, class_mask=FIELDS["class_mask"][0](other)))) == []


def test_names_are_escaped():
    assert printable("a\tb\n\\\udcff") == "a\\tb\\n\\\\\\udcff"
    assert printable("Bär.png") == "Bär.png"


@pytest.mark.parametrize("contents", [False, True])
@pytest.mark.parametrize("names", ["plain", "caf\u00e9 \\"])
def test_large_splits_are_digested_in_parts(tmp_path, monkeypatch, contents, names):
    """Names and values have the digest of the whole columns; sizes are looked up with the contents only."""
    paths = [f"{names}{n}.jpg" for n in range(11)]
    for n, path in enumerate(paths):
        (tmp_path / path).write_bytes(b"x" * n)
    labels = np.arange(11, dtype=np.int32) % 3
    packed = Texts.of(paths, f"{tmp_path}/")
    for records in (packed, list(packed)):
        source = Source("s", ("a", "b", "c"), {"train": Split("train", records, {"label": labels}, (), str(tmp_path))})
        whole = identify(source, contents)
        with monkeypatch.context() as patch:
            patch.setattr(identity, "MANY", 10)
            patch.setattr(identity, "PART", 4)
            parts = identify(source, contents)
        assert not parts.records and parts.class_names == whole.class_names
        assert parts.splits["train"] == whole.splits["train"] | ({} if contents else {"sizes": None})
        assert not changes(whole, parts) and not changes(parts, whole)
