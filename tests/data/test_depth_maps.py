"""The field "depth": files of millimetres and metres, unknown depths, folders, manifests, and how maps move."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.data.bad_images import BadImage
from jaxdino.data.depth_field import DepthField, DepthMap, survey
from jaxdino.data.geometry import Geometry
from jaxdino.data.pipeline import make_eval_iter
from jaxdino.data.record import Split
from jaxdino.data.sources import load_source
from tests.data.pair_folders import MAX, photo, save

MILLIMETRES = np.array([[0, 1500], [2, 65535]], np.uint16)


def test_units_and_unknown_depths(tmp_path):
    metres = np.array([[np.nan, 1.5], [-1.0, np.inf]], np.float64)
    np.save(tmp_path / "a.npy", metres)
    np.save(tmp_path / "b.npy", np.float16(metres[..., None]))
    save(tmp_path / "a.png", MILLIMETRES)
    Image.fromarray(np.float32(metres)).save(tmp_path / "a.tif")
    for name in ("a.npy", "b.npy", "a.tif"):
        assert DepthMap(str(tmp_path / name))(MAX).tolist() == [[0, 1.5], [0, 0]], name
    assert DepthMap(str(tmp_path / "a.png"))(MAX).tolist() == np.float32([[0, 1.5], [0.002, 65.535]]).tolist()
    assert DepthMap(str(tmp_path / "a.png"), 256.0)(MAX)[0, 1] == 1500 / 256


def test_files_that_are_no_depth_maps(tmp_path):
    save(tmp_path / "eight.png", np.ones((2, 2), np.uint8))
    save(tmp_path / "rgb.png", np.ones((2, 2, 3), np.uint8))
    (tmp_path / "text.png").write_text("nothing")
    wanted = {"eight.png": "8 bits", "rgb.png": "3 channels", "text.png": "cannot be read", "no.png": "does not exist"}
    for name, words in wanted.items():
        with pytest.raises(BadImage, match=words):
            DepthMap(str(tmp_path / name))(MAX)
    assert DepthMap(str(tmp_path / "eight.png"), 2.0)(MAX).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    with pytest.raises(BadImage, match="more than max_pixels = 3"):
        DepthMap(str(tmp_path / "eight.png"), 2.0)(3)


def test_folders_and_splits(tmp_path):
    for number in range(10):
        photo(tmp_path / "images" / f"{number}.jpg")
        save(tmp_path / "depth" / f"{number}_depth.png", np.full((8, 10), 1000 + number, np.uint16))
    photo(tmp_path / "images/more.jpg")
    found = load_source(dict(name="depth", root=str(tmp_path)), "depth")
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 8, "val": 2}
    assert found.ignored == {"image without depth map": 1}
    seen = survey(found.split("train"), MAX)
    assert (seen.maps, seen.known) == (8, 1.0) and 1 <= seen.low < seen.high <= 1.009
    other = load_source(
        dict(name="depth", root=str(tmp_path), images="images", depths="depth", depth_scale=10), "depth"
    )
    assert survey(other.split("train"), MAX).low >= 100
    with pytest.raises(UserError, match=r"data\.depths is None: give both"):
        load_source(dict(name="depth", root=str(tmp_path), images="images"), "depth")
    with pytest.raises(UserError, match=r"data\.depth_scale=2\.0 is for data\.name=manifest"):
        load_source(dict(name="folder", root=str(tmp_path), depth_scale=2.0))


def test_manifests(tmp_path):
    rows = []
    for number in range(3):
        photo(tmp_path / f"{number}.jpg")
        np.save(tmp_path / f"{number}.npy", np.full((8, 10), 2.0))
        rows.append({"path": f"{number}.jpg", "depth": f"{number}.npy", "split": ("train", "train", "val")[number]})
    rows.append({"path": "4.jpg", "depth": "", "split": "train"})
    file = tmp_path / "list.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    found = load_source(dict(name="manifest", root=str(file)), "depth")
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 2, "val": 1}
    assert found.ignored == {"image without depth map": 1}
    (tmp_path / "list.csv").write_text("path,deph\n0.jpg,0.npy\n")
    with pytest.raises(UserError, match=re.escape("list.csv:1: there is no column 'depth'; nearest: deph")):
        load_source(dict(name="manifest", root=str(tmp_path / "list.csv")), "depth")


def test_maps_move_with_images_and_keep_their_metres():
    depth, field = np.arange(1, 33, dtype=np.float32).reshape(4, 8) / 7, DepthField(MAX)
    flipped = Geometry((8, 4), (2, 4), Resize(), box=(4, 0, 8, 2), hflip=True)
    assert np.array_equal(field.move(depth, flipped, {}, None)["depth"], depth[:2, :3:-1])
    turned = field.move(depth, Geometry((8, 4), (4, 8), Resize(), box=(0, 0, 8, 4), degrees=30.0), {}, None)["depth"]
    assert set(np.unique(turned)) <= {0, *np.unique(depth)} and (turned == 0).any()
    padded = Geometry((8, 4), (8, 8), Resize(1.0, "bicubic", "border", "even", (9, 9, 9)))
    found = field.move(depth, padded, {}, None)["depth"]
    assert (found[:2] == 0).all() and np.array_equal(found[2:6], depth)


def test_a_map_of_another_size_is_named(tmp_path):
    split = Split("val", [np.zeros((4, 6, 3), np.uint8)], {"depth": [np.ones((4, 5), np.float32)]})
    batches = make_eval_iter(split, batch_size=1, image_size=4, fields=(DepthField(MAX),))
    (batch,) = batches
    assert batch["weight"] == 0 and not batch["depth"].any()
    assert batches.bad.reasons == {0: "the image has 6 x 4 pixels, its depth map 5 x 4"}
    with pytest.raises(UserError, match="have no pixel above 0"):
        survey(Split("train", split.records, {"depth": [np.zeros((4, 6), np.float32)]}), MAX)
