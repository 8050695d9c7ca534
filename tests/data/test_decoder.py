"""The fast decoder beside Pillow: equal pixels from JPEGs, nearly equal resizing, the same refusals."""

import io
from pathlib import Path

import numpy as np
import pytest
from data.photographs import photographs
from ml_collections import ConfigDict
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.data import decoder, reader
from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import Levels
from jaxdino.data.channels import Reading
from jaxdino.data.checks import Part, open_image
from jaxdino.data.decoder import PILLOW, Decoder
from jaxdino.data.fields import ClassMap
from jaxdino.data.geometry import Geometry
from jaxdino.data.reader import Crops, Reader
from jaxdino.data.recipe import View
from jaxdino.train.decoding import choose_decoder

FAST = Decoder(fast=True)
LIMIT = 1 << 20


def jpeg(tmp_path, name="x.jpg", size=(203, 157), mode="RGB", **how):
    image = Image.fromarray(photographs(1, size[1], size[0])[0]).convert(mode)
    image.save(tmp_path / name, quality=90, **how)
    return str(tmp_path / name)


def opened(path, with_, scale=1):
    return np.asarray(open_image(path, Reading(max_pixels=LIMIT), lambda full: Part(scale), with_))


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "how",
    [{}, {"mode": "L"}, {"subsampling": 0}, {"progressive": True}, {"exif": turned(6)}, {"mode": "CMYK"}],
    ids=["colour", "grey", "subsampling", "progressive", "turned", "cmyk"],
)
def test_a_jpeg_has_pillows_pixels(tmp_path, scale, how):
    path = jpeg(tmp_path, **how)
    assert np.array_equal(opened(path, FAST, scale), opened(path, PILLOW, scale))


def test_plain_jpegs_are_decoded_by_the_fast_library_and_others_are_not(tmp_path, monkeypatch):
    taken, found = [], decoder._jpeg
    monkeypatch.setattr(decoder, "_jpeg", lambda *args: taken.append(found(*args)) or taken[-1])
    for how in ({}, {"mode": "L"}, {"mode": "CMYK"}):
        opened(jpeg(tmp_path, **how), FAST)
    jpeg(tmp_path, "x.png")
    opened(str(tmp_path / "x.png"), FAST)
    assert [image and image.mode for image in taken] == ["RGB", "L"]


def test_damaged_and_large_files_are_refused_as_by_pillow(tmp_path):
    whole = Path(jpeg(tmp_path)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_bytes(b"no image")
    reasons = {}
    for with_ in (FAST, PILLOW):
        for name in ("cut.jpg", "text.jpg", "x.jpg"):
            limit = 100 if name == "x.jpg" else LIMIT
            with pytest.raises(BadImage) as err:
                open_image(str(tmp_path / name), Reading(max_pixels=limit), decoder=with_)
            assert reasons.setdefault(name, str(err.value)) == str(err.value)
    assert "truncated" in reasons["cut.jpg"] and "too large" in reasons["x.jpg"]


@pytest.mark.parametrize("filter_", [*decoder.FILTERS, Image.Resampling.HAMMING])
@pytest.mark.parametrize("size", [(50, 40), (250, 260)])
def test_resizing_is_nearly_pillows(filter_, size):
    for mode in ("RGB", "L"):
        image = Image.fromarray(photographs(1, 157, 203)[0]).convert(mode)
        box = (3.25, 7.5, 190.75, 157)
        ours, theirs = (np.asarray(one.resized(image, size, filter_, box), np.int16) for one in (FAST, PILLOW))
        difference = np.abs(ours - theirs)
        assert (
            difference.max() <= 5 and difference.mean() < 0.35
        )  # at the most 5, where Lanczos enlarges; 2 to 3 otherwise
        if filter_ not in decoder.FILTERS:
            assert not difference.any()


MOVES = [{}, {"hflip": True}, {"turns": 1, "vflip": True}, {"degrees": 30.0}, {"box": None}, {"full": (406, 314)}]


@pytest.mark.parametrize("change", MOVES, ids=str)
def test_colours_without_a_pillow_image_give_the_same_pixels(change):
    """A box of the image, at full size and at half the size of the file."""
    levels = photographs(1, 157, 203)[0]
    move = Geometry(**{"full": (203, 157), "size": (64, 48), "how": Resize(), "box": (11, 7, 190, 150)} | change)
    ours, theirs = (move.image(one, FAST) for one in (Levels(levels), Image.fromarray(levels)))
    assert ours.shape == (64, 48, 3) and np.array_equal(ours, theirs)


def square(tmp_path):
    """A black JPEG with a white square, and the mask of the square."""
    mask = np.zeros((240, 320), np.uint8)
    mask[60:180, 100:220] = 1
    Image.fromarray(mask * 255).convert("RGB").save(tmp_path / "square.jpg", quality=95)
    return str(tmp_path / "square.jpg"), mask


@pytest.mark.parametrize("view", [{}, {"degrees": 30.0}, {"hflip": 1.0}], ids=str)
def test_masks_stay_aligned_with_images_that_are_decoded_smaller(tmp_path, view):
    path, mask = square(tmp_path)
    crops = {"image": Crops((64, 64), (View(scale=(0.8, 1.0), **view),))}
    read = Reader(crops, (ClassMap(LIMIT),), Resize(), Reading(), True, FAST)
    row = read({"image": path, "index": 0, "class_mask": mask}, np.random.default_rng(3))
    shown = row["mask"] != 255
    agree = (row["image"][..., 0] > 127) == (row["mask"] == 1)
    assert row["weight"] == 1 and 0.1 < (row["mask"] == 1).mean() < 0.9 and agree[shown].mean() > 0.98


def test_a_training_crop_differs_little_from_pillows(tmp_path):
    crops = {"image": Crops((64, 64), (View(scale=(0.5, 1.0)),))}
    element = {"image": jpeg(tmp_path), "index": 0}
    rows = [
        Reader(crops, (), Resize(), Reading(), True, one)(element, np.random.default_rng(5))["image"].astype(int)
        for one in (FAST, PILLOW)
    ]
    assert 0 < np.abs(rows[0] - rows[1]).mean() < 0.35


def decodes(monkeypatch):
    """Return the (rows, of an image of how many) of each JPEG to come; rows that are not decoded are bright."""
    import simplejpeg

    seen, decode = [], simplejpeg.decode_jpeg

    def spying(data, *args, buffer, **how):
        buffer[:] = 255
        found = decode(data, *args, buffer=buffer, **how)
        seen.append((len(found), len(buffer)))
        return found

    monkeypatch.setattr(simplejpeg, "decode_jpeg", spying)
    return seen


def read_twice(monkeypatch, path, moves, channels=3):
    """Return what geometries make of an image of which they need a part, and of all of it."""
    begin, part, found = decoder._beginning, reader._part(moves, True), []
    for beginning in (begin, lambda data, height, *_: (data, height)):
        monkeypatch.setattr(decoder, "_beginning", beginning)
        image = open_image(path, Reading(channels, max_pixels=4 * LIMIT), lambda full: part, FAST)
        found.append(np.stack([move.image(image, FAST) for move in moves]))
    monkeypatch.setattr(decoder, "_beginning", begin)
    return found


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "how",
    [{"subsampling": 2}, {"subsampling": 1, "restart_marker_rows": 2}, {"subsampling": 0}, {"mode": "L"}],
    ids=["420", "422", "444", "grey"],
)
def test_rows_below_what_is_read_are_not_decoded(tmp_path, monkeypatch, orientation, how):
    path = jpeg(tmp_path, size=(406, 314), exif=turned(orientation), **how)
    size = (406, 314) if orientation < 5 else (314, 406)
    channels = 1 if "mode" in how else 3
    seen, rng = decodes(monkeypatch), np.random.default_rng(orientation)
    for side in (60, 25, 12, 6):
        shares = rng.uniform(0.25, 0.3, 2), rng.uniform((0.6, 0.33), (0.65, 0.38))
        box = tuple(int(share * full) for pair in shares for share, full in zip(pair, size, strict=True))
        inner = (box[0] + 9, box[1] + 7, box[2] - 5, box[3] - 8)
        moves = [Geometry(size, (side, side), Resize(), one) for one in (box, inner)]
        assert np.array_equal(*read_twice(monkeypatch, path, moves, channels)), side
    assert all(rows < every for rows, every in seen[::2]) and all(rows == every for rows, every in seen[1::2])


@pytest.mark.parametrize("filter_", ["lanczos", "hamming"])
def test_a_filter_wider_than_its_box_reads_decoded_rows(tmp_path, monkeypatch, filter_):
    path, seen = jpeg(tmp_path, size=(900, 1200)), decodes(monkeypatch)
    for box, side in {(100, 200, 800, 900): 20, (300, 100, 340, 140): 20, (300, 100, 348, 148): 6}.items():
        moves = [Geometry((900, 1200), (side, side), Resize(interpolation=filter_), box)]
        assert np.array_equal(*read_twice(monkeypatch, path, moves)), side
    assert all(rows < every for rows, every in seen[::2])


def test_a_file_that_ends_too_early_is_refused_even_if_its_first_rows_suffice(tmp_path):
    path = Path(jpeg(tmp_path))
    path.write_bytes(path.read_bytes()[:-700])
    part = Part(box=(0, 0, 40, 40))
    with pytest.raises(BadImage, match="truncated"):
        open_image(str(path), Reading(max_pixels=LIMIT), lambda full: part, FAST)


def test_a_jpeg_of_several_scans_is_decoded_whole(tmp_path, monkeypatch):
    seen, part = decodes(monkeypatch), Part(box=(0, 0, 40, 40))
    path = Path(jpeg(tmp_path))
    for name, change in {"x.jpg": {}, "scans.jpg": {"progressive": True}}.items():
        open_image(jpeg(tmp_path, name, **change), Reading(max_pixels=LIMIT), lambda full: part, FAST)
    assert seen == [(42, 157), (157, 157)]
    data = path.read_bytes()
    scan = data.index(bytes([0xFF, decoder.START_OF_SCAN]))
    assert decoder._place_of_height(data) is not None
    assert decoder._place_of_height(data[: scan + 4] + b"\x01" + data[scan + 5 :]) is None  # one colour in the scan


def test_a_run_keeps_its_decoder(tmp_path, monkeypatch):
    def choice(given, before=None):
        folder = tmp_path / str(before)
        folder.mkdir(exist_ok=True)
        if before is not None:
            data = {"decoder": before} if before else {}
            (folder / "config.json").write_text(ConfigDict({"data": data, "stages": []}).to_json())
        config, said = ConfigDict({"data": {"decoder": given, "name": "folder"}}), []
        choose_decoder(config, folder, said.append)
        assert said[0].startswith(f"decoder: {config.data.decoder}")
        return config.data.decoder

    assert [choice("auto"), choice("auto", "pillow"), choice("auto", "fast")] == ["fast", "pillow", "fast"]
    assert choice("auto", "") == "pillow"  # of an earlier version
    monkeypatch.setattr(decoder, "usable", lambda: False)
    assert choice("auto") == "pillow"
    with pytest.raises(UserError, match=r"pip install 'jaxdino\[fast\]'"):
        choice("auto", "fast")


def test_images_that_are_stored_as_bytes(tmp_path):
    from jaxdino.data.stored import Stored

    class Store:
        def read(self, row):
            return Path(jpeg(tmp_path)).read_bytes()

        def name(self, row):
            return "a"

        def size(self, row):
            return len(self.read(row))

    stored = Stored(Store(), 0)
    assert isinstance(stored.open(), io.BytesIO)
    assert np.array_equal(opened(stored, FAST, 2), opened(jpeg(tmp_path), PILLOW, 2))
