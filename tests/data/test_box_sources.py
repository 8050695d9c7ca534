"""Boxes as a field of records: four formats, what is left out, and the batches of training."""

import functools
import os
import pickle
import tracemalloc

import box_folders
import numpy as np
import pytest
from box_folders import FORMATS, SPLITS, things
from PIL import Image

from jaxdino import check_data, prepare
from jaxdino.core.errors import UserError
from jaxdino.data.box_field import BoxField, slots_of
from jaxdino.data.pipeline import make_eval_iter, make_train_iter
from jaxdino.data.sources import load_source

FIELD = BoxField(8, 0.3)


def load(root, name, **options):
    return load_source({"name": name, "root": str(root), **options}, "boxes")


def training(source, **how):
    return make_train_iter(
        source.splits["train"], dict(num_threads=0), batch_size=4, image_size=48, fields=(FIELD,), seed=5, **how
    )


@pytest.mark.parametrize("name", [*FORMATS, "jsonl"])
def test_every_format_gives_the_same_boxes(name, tmp_path):
    make = functools.partial(box_folders.manifest, suffix=".jsonl") if name == "jsonl" else FORMATS[name]
    source = load(make(tmp_path), "manifest" if name == "jsonl" else name)
    assert source.class_names == ("cat", "dog")
    for split, numbers in SPLITS.items():
        assert len(source.splits[split]) == len(numbers)
        for n, found in zip(numbers, source.splits[split].fields["boxes"], strict=True):
            wanted = [(*box, label, name == "coco" and n == 7) for label, box in things(n)]
            np.testing.assert_allclose(found, np.array(wanted, np.float32).reshape(-1, 6), atol=1e-4)
    assert slots_of(source.splits, None)[0] == 8
    lists = source.splits["train"].fields["boxes"]
    assert all(np.array_equal(a, b) for a, b in zip(pickle.loads(pickle.dumps(lists)), lists, strict=True))
    assert [len(one) for one in lists[2:5]] == [2, 3, 0] and [len(one) for one in lists[::3]] == [0, 3, 2]


BAD = {
    "nan": ((30, "nan", 50, 40), "its corners are not four numbers"),
    "flat": ((30, 30, 30, 40), "it has no area"),
    "inverted": ((40, 30, 30, 40), "its right or bottom side comes before the left or top one"),
    "outside": ((90, 30, 99, 40), "it lies outside of the image"),
    "beyond": ((60, 30, 99, 40), "cut off at the edge, since it reaches out of the image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_boxes_are_counted_with_their_line_or_stop_the_run(kind, tmp_path):
    box, why = BAD[kind]
    file = box_folders.manifest(tmp_path, lambda n: [(1, box)] if n == 2 else things(n))
    line = 1 + next(i for i, text in enumerate(file.read_text().splitlines()) if text.startswith("02.png"))
    source = load(file, "manifest")
    assert (
        f"1 of 14 boxes are {'' if kind == 'beyond' else 'left out, since '}{why}: {file}:{line} (dog"
        in source.notes[0]
    )
    found = source.splits["train"].fields["boxes"][2]
    assert found.tolist() == ([[60, 30, 80, 40, 1, 0]] if kind == "beyond" else [])
    with pytest.raises(UserError, match=rf"boxes\.csv:{line} .*on_bad is 'stop'"):
        load(file, "manifest", on_bad="stop")


def test_what_names_the_line_of_other_formats(tmp_path):
    make = lambda n: [(0, (1, 1, 9, 9)), (1, (30, 30, 30, 40))] if n == 3 else things(n)  # noqa: E731
    assert "labels/train/03.txt:2 (dog" in load(box_folders.yolo(tmp_path / "y", make), "yolo").notes[1]
    assert "03.xml: object 2 (dog" in load(box_folders.voc(tmp_path / "v", make), "voc").notes[0]
    assert "instances_train.json: annotation 4 (dog" in load(box_folders.coco(tmp_path / "c", make), "coco").notes[0]


def test_a_box_of_an_unknown_class_is_left_out_also_at_the_edge(tmp_path):
    top = box_folders.yolo(tmp_path)
    (top / "labels/train/03.txt").write_text("7 0.9 0.9 0.5 0.5\n0 0.9 0.9 0.5 0.5\n")
    source = load(top, "yolo", max_missing=0.5)
    assert source.splits["train"].fields["boxes"][3][:, 4].tolist() == [0]
    assert any("1 of 14 boxes are left out, since its class is not known" in note for note in source.notes), (
        source.notes
    )


def test_what_is_refused(tmp_path):
    top = box_folders.yolo(tmp_path / "yolo")
    (top / "labels/train/03.txt").write_text("7 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1\n1 0.1 0.1 0.3 0.1 0.3 0.4\n")
    with pytest.raises(UserError, match=r"its class is not known: .*03\.txt:1 \(7, .*max_missing"):
        load(top, "yolo", max_missing=0.05)
    source = load(top, "yolo", max_missing=0.5)
    np.testing.assert_allclose(source.splits["train"].fields["boxes"][3], [[8, 6, 24, 24, 1, 0]], atol=1e-4)
    (top / "data.yaml").write_text("names: [cat, cat]\n")
    with pytest.raises(UserError, match="each once"):
        load(top, "yolo")
    (top / "data.yaml").unlink()
    with pytest.raises(UserError, match=r"nothing names the classes .*classes\.txt"):
        load(top, "yolo")
    file = box_folders.manifest(tmp_path / "m", lambda n: [])
    with pytest.raises(UserError, match="have no box"):
        load(file, "manifest")
    file.write_text("path,x1,y1,x2,label\n00.png,1,2,3,cat\n")
    with pytest.raises(UserError, match=r"boxes\.csv:1: there is no column 'y2'"):
        load(file, "manifest")
    (tmp_path / "m/02.png").unlink()
    file.write_text("path,x1,y1,x2,y2,label\n" + "".join(f"{n:02}.png,1,2,30,40,cat\n" for n in range(4)))
    with pytest.raises(UserError, match=r"1 of 4 images are missing or cannot be read: 02\.png"):
        load(file, "manifest")


def test_a_batch_keeps_each_box_around_its_object(tmp_path):
    """Boxes of the training batches, under everything that moves pixels, hold the coloured pixels."""
    source = load(box_folders.manifest(tmp_path), "manifest")
    view = dict(scale=(0.4, 1.0), degrees=20.0, shear=8.0, perspective=0.2, warp=0.02, hflip=0.5, quarter=0.5)
    batches, seen = training(source, preset=view), 0
    for _ in range(12):
        batch = next(batches)
        assert batch["boxes"].shape == (4, 8, 4) and batch["boxes"].dtype == np.float32
        for row in range(4):
            image = batch["image"][row].astype(int)
            colour = np.stack([image[..., 0] - image[..., 2], image[..., 2] - image[..., 0]]) > 120
            inside = np.zeros((2, 48, 48), bool)
            used = batch["box_valid"][row] + batch["box_ignored"][row]
            for slot in np.flatnonzero(used):
                left, top, right, bottom = batch["boxes"][row, slot]
                area = slice(int(top), int(np.ceil(bottom)) + 1), slice(int(left), int(np.ceil(right)) + 1)
                inside[batch["box_labels"][row, slot]][area] = True
                seen += 1
            assert (colour & ~inside).sum() <= 0.02 * colour.sum()
            assert used.max() <= 1 and not batch["boxes"][row][used == 0].any()
    assert seen > 30


def test_difficult_objects_of_voc_count_neither_way(tmp_path):
    top = box_folders.voc(tmp_path / "v")
    file = next(one for one in sorted((top / "Annotations").iterdir()) if "<object>" in one.read_text())
    file.write_text(file.read_text().replace("</bndbox>", "</bndbox><difficult>1</difficult>", 1))
    source = load(top, "voc")
    flags = np.concatenate([rows[:, 5] for split in source.splits.values() for rows in split.fields["boxes"]])
    assert flags.sum() == 1 and any("1 of them crowds or difficult" in note for note in source.notes)


def test_crowds_cut_objects_and_too_many_boxes(tmp_path):
    from jaxdino.core.resize import Resize
    from jaxdino.data.geometry import Geometry

    move = Geometry((80, 60), (60, 40), Resize(), (40, 0, 80, 60))
    value = np.array(
        [[30, 0, 42, 10, 0, 0], [30, 0, 60, 10, 1, 0], [50, 5, 60, 15, 0, 1], [0, 0, 20, 20, 0, 0]], np.float32
    )
    row = FIELD.move(value, move, {}, np.random.default_rng(0))
    assert row["boxes"][:3].tolist() == [[0, 0, 20, 10], [0, 0, 2, 10], [10, 5, 20, 15]]
    assert row["box_valid"].tolist() == [1] + 7 * [0] and row["box_ignored"].tolist() == [0, 1, 1] + 5 * [0]
    assert row["box_labels"][:3].tolist() == [1, 0, 0] and "box_origin" not in row
    many = np.tile(np.array([[40, 0, 50, 10, 0, 0]], np.float32), (12, 1)) + np.arange(12)[:, None] * [0, 0, 1, 0, 0, 0]
    kept = FIELD.move(many, move, {}, None)
    assert kept["boxes"][:, 2].tolist() == list(range(14, 22)) and kept["box_origin"].tolist() == [1, 1, 40, 0]
    assert FIELD.wanted(value, (0, 0, 30, 30)) and not FIELD.wanted(value[:2], (0, 20, 80, 60))


def test_the_stream_of_batches_resumes_and_shards_give_the_same(tmp_path):
    source = load(box_folders.voc(tmp_path / "data"), "voc")
    out = tmp_path / "shards"
    words = ["--root", str(tmp_path / "data"), "--name", "voc", "--field", "boxes", "--out", str(out)]
    assert prepare.main([*words, "--records", "3"]) == 0
    assert prepare.main(["--out", str(out), "--verify"]) == 0
    other = load(out, "shards")
    ours, theirs = training(source), training(other)
    first = [next(ours) for _ in range(3)]
    state, rest = ours.state(), [next(ours) for _ in range(3)]
    for one, two in zip([*first, *rest], [next(theirs) for _ in range(6)], strict=True):
        assert one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)
    again = training(source)
    again.restore(state)
    for one, two in zip(rest, [next(again) for _ in range(3)], strict=True):
        assert all(np.array_equal(one[key], two[key]) for key in one)
    batch = next(iter(make_eval_iter(source.splits["val"], batch_size=4, image_size=48, fields=(FIELD,))))
    assert batch["box_origin"].shape == (4, 4) and not batch["box_origin"][3].any()
    np.save(out / "index/train.box_offsets.npy", np.zeros(9, np.int64))
    with pytest.raises(UserError, match="does not fit its shards"):
        load(out, "shards")


@pytest.mark.parametrize("name", ["yolo", "manifest"])
def test_check_data_lists_the_boxes(name, tmp_path):
    from jaxdino.core.json_file import read_json

    make = lambda n: [(1, (60, 30, 99, 40))] if n == 2 else things(n)  # noqa: E731
    root, out = FORMATS[name](tmp_path / "data", make), tmp_path / "found.json"
    assert check_data.main([f"--root={root}", f"--name={name}", f"--json={out}"]) == 0
    found = read_json(out)
    assert found["boxes"]["dog"]["train"] == 4
    assert [bad["reason"] for bad in found["bad_box_list"]] == ["it reaches out of the image, 80 x 60"]


def test_check_data_counts_the_boxes_and_classes_of_shards_as_their_source(tmp_path):
    from jaxdino.core.json_file import read_json

    root = str(box_folders.voc(tmp_path / "data"))
    found = {}
    for field in ("boxes", "labels"):
        shards, out = str(tmp_path / field), tmp_path / f"{field}.json"
        assert prepare.main(["--root", root, "--name", "voc", "--field", field, "--out", shards]) == 0
        assert check_data.main(["--root", shards, "--name", "shards", f"--json={out}"]) == 0
        found[field] = read_json(out)
    assert check_data.main(["--root", root, "--name", "voc", f"--json={tmp_path / 'voc.json'}"]) == 0
    of_source = read_json(tmp_path / "voc.json")
    assert found["boxes"]["boxes"] == of_source["boxes"] and found["boxes"]["classes"] == of_source["classes"]
    assert found["labels"]["classes"] == of_source["classes"] and found["boxes"]["bad_boxes"] == []


def test_many_boxes_of_a_manifest_take_few_bytes_each(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    for number in range(1, 100):
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    for count in (100, 400_000):  # the first one imports
        rows = ((i * 100 // count, i % 7, i % 11, 9 + i % 13, 20 + i % 17, i % 5) for i in range(count))
        lines = ("{}.png,{},{},{},{},c{}".format(*row) for row in rows)
        (tmp_path / "m.csv").write_text("\n".join(["path,x1,y1,x2,y2,label", *lines]))
        tracemalloc.start()
        source = load(tmp_path / "m.csv", "manifest", val_ratio=0.0)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    boxes = source.splits["train"].fields["boxes"]
    assert len(boxes.every) == count and most / count < 125
    row = 4003
    np.testing.assert_array_equal(boxes[1][3], [row % 7, row % 11, 9 + row % 13, 20 + row % 17, row % 5, 0])
