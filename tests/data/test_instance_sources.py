"""Objects with masks: maps of numbers, COCO regions, how they move with the image, and what is wrong with them."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.data.bad_images import BadImage
from jaxdino.data.config import DataConfig
from jaxdino.data.geometry import Geometry
from jaxdino.data.instance_field import InstanceField, slots_of
from jaxdino.data.instances import read
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.sources import load_source

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

PIXELS = 2**20


def maps(root, arrays, classes=None):
    """A folder of grey images with maps of numbers."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number, ids in enumerate(arrays):
        Image.fromarray(np.uint8(np.asarray(ids) > 0) * 200).save(root / f"images/{number}.png")
        Image.fromarray(np.asarray(ids, np.uint16)).save(root / f"masks/{number}.png")
    if classes is not None:
        (root / "classes.json").write_text(json.dumps(classes))
    return root


def loaded(root, name="masks", **options):
    return load_source({"name": name, "root": str(root), "val_ratio": 0.0, **options}, "instances")


def first(source):
    split = source.split("train")
    return [read(one, PIXELS) for one in split.fields["instances"]]


def test_every_number_is_an_object_of_one_class(tmp_path):
    ids = np.zeros((8, 10), int)
    ids[:3, :3], ids[4:7, 5:9] = 300, 7
    source = loaded(maps(tmp_path, [ids, np.zeros((8, 10), int)]))
    assert source.class_names == ("object",) and "since no classes.json" in source.notes[0]
    found, empty = first(source)
    assert found.boxes.tolist() == [[5, 4, 9, 7], [0, 0, 3, 3]] and found.labels.tolist() == [0, 0]
    assert not len(empty.labels) and not empty.ids.any()
    assert slots_of(source.splits, None)[0] == 8


def test_cityscapes_numbers_stuff_groups_and_values_without_a_class(tmp_path):
    ids = np.zeros((6, 8), int)
    ids[0], ids[1], ids[2, :4], ids[2, 4:], ids[3] = 23, 99, 24001, 24002, 24
    source = loaded(maps(tmp_path, [ids], {"24": "person", "23": "sky"}))
    assert source.class_names == ("sky", "person")
    assert source.split("train").fields["instances"].things == (False, True)
    (found,) = first(source)
    named = [source.class_names[label] for label in found.labels]
    assert named == ["sky", "person", "person", "person"] and found.crowd.tolist() == [False, True, False, False]
    assert set(found.ids[4:].ravel()) == {-1} == set(found.ids[1])
    assert any("values without a class are ignored: 0" in note and "99" in note for note in source.notes)


def test_maps_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no mask has an object of them, such as 1001 \(class \* 1000 \+ number\)"):
        loaded(maps(tmp_path / "a", [np.eye(4, dtype=int)], {"1": "cat", "2": "dog"}))
    with pytest.raises(UserError, match="has a value above 0: there is no object to learn"):
        loaded(maps(tmp_path / "b", [np.zeros((4, 4))]))
    root = maps(tmp_path / "c", [np.eye(4, dtype=int)] * 3)
    Image.fromarray(np.eye(5, dtype=np.uint16)).save(root / "masks/0.png")
    (root / "masks/2.png").unlink()
    source = loaded(root)
    assert source.ignored == {"image without mask": 1}
    how = dict(seed=0, batch_size=2, image_size=4, preset="none", fields=FIELDS)
    made = make_train_iter(source.split("train"), DataConfig(num_threads=0), **how)
    batch = next(made)
    assert sorted(batch["weight"].tolist()) == [0, 1]
    assert any("its mask 5 x 5" in why for why in made.bad.reasons.values())


FIELDS = (InstanceField(8, PIXELS),)


def coco(root, annotations, size=(12, 16)):
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    height, width = size
    for name in ("a", "b"):
        Image.new("RGB", (width, height)).save(root / f"images/{name}.png")
    listed = [{"id": n, "file_name": f"{name}.png", "height": height, "width": width} for n, name in enumerate("ab")]
    content = {"images": listed, "categories": [{"id": 5, "name": "cell"}], "annotations": annotations}
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    return root


def test_coco_polygons_run_lengths_crowds_and_what_is_left_out(tmp_path):
    square = [[2, 2, 8, 2, 8, 8, 2, 8]]
    runs = {"size": [12, 16], "counts": [12 * 4 + 4, 2, 10, 2, 12 * 16 - 12 * 4 - 4 - 14]}
    crowd = {"size": [12, 16], "counts": [12 * 10, 12 * 6]}
    shared = {"image_id": 0, "category_id": 5}
    notes = [
        {**shared, "segmentation": square},
        {**shared, "segmentation": runs},  # four pixels inside the square
        {**shared, "segmentation": crowd, "iscrowd": 1},
        {**shared, "segmentation": [[1, 1, 2, 2]]},
        {**shared, "category_id": 9, "segmentation": square},
    ]
    source = loaded(coco(tmp_path, notes), "coco")
    assert source.ignored == {
        "annotation without segmentation, or with fewer than three points": 1,
        "annotation of an unknown image or category": 1,
        "image without annotation, kept as one without objects": 1,
    }
    found, empty = first(source)
    assert np.bincount(found.ids.ravel()).tolist() == [84, 32, 4, 72] and found.crowd.tolist() == [False, False, True]
    assert not len(empty.labels)
    row = FIELDS[0].move(found, Geometry((16, 12), (12, 16), Resize(), box=(0, 0, 16, 12)), {}, None)
    assert row["instance_valid"].sum() == 2 and set(np.unique(row["instances"])) == {-1, 0, 1, 2}
    split = source.split("train").fields["instances"]
    with pytest.raises(BadImage, match="more than max_pixels"):
        split[0](10)


def test_objects_move_with_the_image_and_slivers_are_ignored(tmp_path):
    ids = np.zeros((20, 40), int)
    ids[2:12, 2:12], ids[5:15, 19:39] = 1, 2
    (found,) = first(loaded(maps(tmp_path, [ids])))
    flipped = Geometry((40, 20), (20, 20), Resize(), box=(0, 0, 20, 20), hflip=True)
    row = FIELDS[0].move(found, flipped, {}, None)
    np.testing.assert_array_equal(row["instances"] == 1, (ids == 1)[:, :20][:, ::-1])
    assert (row["instances"] == -1).sum() == 10 and row["instance_valid"].tolist() == [1] + [0] * 7  # a twentieth of 2
    assert FIELDS[0].wanted(found, (0, 0, 10, 10)) and not FIELDS[0].wanted(found, (0, 16, 40, 20))
    few = InstanceField(1, PIXELS).move(found, Geometry((40, 20), (20, 40), Resize(), box=(0, 0, 40, 20)), {}, None)
    assert (few["instances"] == 1).sum() == 200 and (few["instances"] == -1).sum() == 100  # the larger one stays


def test_voc_objects_have_the_class_under_them_and_the_border_is_ignored(tmp_path):
    for name in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (tmp_path / name).mkdir(parents=True)
    numbers, values = np.zeros((6, 9), np.uint8), np.zeros((6, 9), np.uint8)
    numbers[0, :4], numbers[2, :4], numbers[4, :4], numbers[5] = 1, 2, 3, 255
    values[0, :3], values[2, :4], values[4, :4], values[5] = 15, 8, 77, 255
    Image.new("RGB", (9, 6)).save(tmp_path / "JPEGImages/a.jpg")
    for folder, array in (("SegmentationClass", values), ("SegmentationObject", numbers)):
        Image.fromarray(array).save(tmp_path / folder / "a.png")
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\n")
    source = loaded(tmp_path, "voc")
    (found,) = first(source)
    assert [source.class_names[label] for label in found.labels] == ["person", "cat"]
    assert found.ids[:, 0].tolist() == [1, 0, 2, 0, -1, -1] and found.ids[0].tolist() == [1] * 4 + [0] * 5
    (tmp_path / "SegmentationObject/a.png").unlink()
    with pytest.raises(UserError, match="has no SegmentationObject"):
        loaded(tmp_path, "voc")


def test_panoptic_colours_are_ids(tmp_path):
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[0], colours[1], colours[2] = (1, 2, 0), (0, 0, 3), (9, 9, 9)  # 513, 196608, and one that no segment has
    (tmp_path / "annotations/panoptic_train2017").mkdir(parents=True)
    (tmp_path / "train2017").mkdir()
    Image.fromarray(colours).save(tmp_path / "annotations/panoptic_train2017/a.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "train2017/a.jpg")
    segments = [{"id": 513, "category_id": 7}, {"id": 196608, "category_id": 3}, {"id": 5, "category_id": 99}]
    segments += [None, {"id": 6, "category_id": [7]}]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 3, "name": "sky", "isthing": 0}, {"id": 7, "name": "car", "isthing": 1}],
    }
    (tmp_path / "annotations/panoptic_train2017.json").write_text(json.dumps(content))
    source = loaded(tmp_path, "coco_panoptic")
    assert source.class_names == ("sky", "car") and source.ignored == {
        "segment of an unknown category, or without an id": 3
    }
    (found,) = first(source)
    assert found.labels.tolist() == [1, 0] and found.ids[:, 0].tolist() == [1, 2, -1, -1]
    (tmp_path / "annotations/panoptic_train2017").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="the PNGs of"):
        loaded(tmp_path, "coco_panoptic")
