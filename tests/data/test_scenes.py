"""Images above the limit on pixels: what is read in parts equals what is read whole, and nothing is trusted unseen."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from jaxdino.data import scenes, survey, tiff_rows
from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import pixels, plain
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image
from jaxdino.data.ranges import Range
from jaxdino.data.scenes import Scene, is_scene

LIMIT = 20_000  # pixels; the images have three times as many
STORED = {
    "strips": {},
    "tiles": dict(tile=(32, 64), compression="zlib"),
    "packed strips": dict(rowsperstrip=7, compression="lzw", predictor=True),
    "planes": dict(planarconfig="separate", tile=(32, 32)),
    "array": None,
}


def values(dtype, bands):
    found = np.random.default_rng(0).random((203, 317, 3))[..., :bands] * 255
    found = {"uint8": found, "uint16": found * 250, "int16": found * 100 - 9000, "float32": found / 300}[dtype]
    found = found.astype(dtype)
    if dtype == "float32":
        found[:40] = np.nan  # whole strips
    return found


def write(folder, array, how):
    if how is None:
        np.save(folder / "x.npy", array)
        return str(folder / "x.npy")
    grey = array.shape[2] == 1
    if how.get("planarconfig"):
        array = np.moveaxis(array, -1, 0)
    array, kind = (array[..., 0], "minisblack") if grey and array.ndim == 3 else (array, "rgb")
    tifffile.imwrite(folder / "x.tif", array, photometric=kind, **how)
    return str(folder / "x.tif")


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_what_is_read_in_parts_is_what_is_read_whole(dtype, stored, tmp_path):
    ranges = ["full", "0,4000", "image"] + ["percentiles:1,97"] * (dtype in ("uint16", "int16"))
    for bands in (3,) if stored == "planes" else (1, 3):
        path = write(tmp_path, values(dtype, bands), STORED[stored])
        for asked in ranges:
            for channels in (1, 3):
                whole = open_image(path, Reading(channels, Range.of(asked)))
                scene = open_image(path, Reading(channels, Range.of(asked), LIMIT, scenes=True))
                assert isinstance(scene, Scene) and scene.size == whole.size and scene.mode == whole.mode
                np.testing.assert_array_equal(np.concatenate(list(scene.strips())), pixels(whole))
                small = [plain(one).resize((50, 41), Image.Resampling.BICUBIC) for one in (whole, scene)]
                np.testing.assert_array_equal(*map(np.asarray, small))
    rows, shown = scene.rows(), pixels(whole)
    for top in (0, 0, 13, 150, 190):
        np.testing.assert_array_equal(rows[top : top + 30, 20:300], shown[top : top + 30, 20:300])
    np.testing.assert_array_equal(pixels(scene.crop((5, 100, 90, 203))), shown[100:203, 5:90])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, of a big-endian BigTIFF
@pytest.mark.parametrize(
    "how",
    [
        dict(extrasamples=["unassalpha"]),
        dict(byteorder=">", bigtiff=True),  # Pillow cannot read it, and tifffile rounds to 8 bits
        dict(compression="jpeg"),
    ],
)
def test_colours_of_other_forms_are_read_in_parts(how, tmp_path):
    bands, dtype = (4 if "extrasamples" in how else 3), (np.uint8 if how.get("compression") else np.uint16)
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (203, 317, bands), dtype)
    path = str(tmp_path / "x.tif")
    tifffile.imwrite(path, array, photometric="rgb", tile=(64, 64), **how)
    whole = pixels(open_image(path, Reading(bands, Range.of("full"))))
    scene = open_image(path, Reading(bands, Range.of("full"), LIMIT, scenes=True))
    found = np.concatenate(list(scene.strips())).astype(int)
    assert np.abs(found - whole).max() <= (2 if how.get("compression") else 0)  # two JPEG decoders may round


def test_what_was_changed_is_known_when_the_last_window_is_read(tmp_path):
    path = write(tmp_path, values("uint16", 1), STORED["tiles"])
    scene = open_image(path, Reading(1, Range.of("0,30000"), LIMIT, scenes=True))
    rows = scene.rows()
    assert not scene.notes and rows[190:203, :].shape == (13, 317, 1)
    assert scene.notes == ["53% outside data.sixteen_bit=0,30000, clipped"]


def test_what_is_not_read_in_parts_says_what_helps(tmp_path):
    array, reading = values("uint8", 3), Reading(max_pixels=LIMIT, scenes=True)
    Image.fromarray(array).save(tmp_path / "x.png")
    with pytest.raises(BadImage, match=r"317 x 203 has more .* gdal_translate -co TILED=YES IN OUT.tif"):
        open_image(str(tmp_path / "x.png"), reading)
    path = write(tmp_path, array, STORED["tiles"])
    with pytest.raises(BadImage, match="cut it into tiles"):  # unless it is asked for
        open_image(path, Reading(max_pixels=LIMIT))
    scene = open_image(path, reading)
    for refused in (np.asarray, lambda one: one.crop((0, 0, 317, 203)), lambda one: one.transpose(0)):
        with pytest.raises(BadImage, match="317 x 203 pixels, more than max_pixels = 20000, are read only in windows"):
            refused(scene)
    small = open_image(path, Reading(max_pixels=1, scenes=True)).resize((317, 203), Image.Resampling.BOX)
    np.testing.assert_array_equal(np.asarray(small), array)  # what pictures show, whatever the limit
    deep = write(tmp_path, values("float32", 3), STORED["tiles"])
    with pytest.raises(BadImage, match="percentiles of float32 pixels need the whole image"):
        open_image(deep, Reading(3, Range.of("percentiles"), LIMIT, scenes=True))
    with pytest.raises(BadImage, match="set their range"):
        open_image(deep, Reading(3, Range(), LIMIT, scenes=True))


def test_sizes_are_checked_before_pixels_are_decoded(tmp_path, monkeypatch):
    path = write(tmp_path, values("uint8", 3), STORED["tiles"])
    reading = Reading(max_pixels=LIMIT, scenes=True)
    for module, most, words in (
        (tiff_rows, "LARGEST", "a row of its tiles has 30,432 bytes"),
        (scenes, "MOST", "too large: 317 x 203 has more than 1,000 pixels"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, most, 1000)
            with pytest.raises(BadImage, match=words):
                open_image(path, reading)
    with tifffile.TiffFile(path) as tif:
        width, offsets = (tif.pages[0].tags[name] for name in ("ImageWidth", "TileOffsets"))
    stored = (tmp_path / "x.tif").read_bytes()
    for offset, number, words in (
        (width.valueoffset, 60_000, "it lists 35 of its 6566 tiles"),
        (offsets.valueoffset, 2**30, "its tile 0 lies beyond the end of the file"),
    ):
        changed = bytearray(stored)
        changed[offset : offset + 4] = number.to_bytes(4, "little")
        (tmp_path / "bad.tif").write_bytes(changed)
        with pytest.raises(BadImage, match=words):
            list(open_image(str(tmp_path / "bad.tif"), reading).strips())
    with tifffile.TiffFile(path) as tif:
        wide = tif.pages[0].tags["TileWidth"].valueoffset
    (tmp_path / "bad.tif").write_bytes(stored[:wide] + bytes(2) + stored[wide + 2 :])
    with pytest.raises(BadImage, match="damaged"):
        open_image(str(tmp_path / "bad.tif"), reading)
    assert not is_scene(path, 10**6) and not is_scene("nowhere.tif", 1)


def test_the_range_of_a_scene_is_found_in_parts_of_it(tmp_path, monkeypatch):
    path = write(tmp_path, values("uint16", 1) // 16, dict(rowsperstrip=7))
    monkeypatch.setattr(Reading, "max_pixels", LIMIT)
    monkeypatch.setattr(survey, "stored_values", lambda *_: pytest.fail("the whole image was decoded"))
    assert survey.range_of([path]) == (Range.of("0,4095"), survey.range_of([path])[1])
    assert scenes.sample(path).size == 8 * 7 * 317
    monkeypatch.setattr(scenes, "STRIP", 1000)  # of 7 rows every third
    assert scenes.sample(path).size == 8 * 3 * 317
