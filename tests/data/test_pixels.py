"""Bit depths, channels and the survey of pixels."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.data import survey
from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import pixels
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image
from jaxdino.data.config import DataConfig
from jaxdino.data.crops import eval_crop, resized_crop, turned_crop
from jaxdino.data.kinds import Kind
from jaxdino.data.pipeline import make_eval_iter
from jaxdino.data.presets import PRESETS
from jaxdino.data.ranges import Range, remarks
from jaxdino.data.record import Split


def values(shape=(20, 24), high=4096, dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def read(record, channels=3, setting="full"):
    return pixels(open_image(record, Reading(channels, Range.of(setting))))


def settle(paths, channels=3):
    return survey.settle(survey.look([split_of(paths)]), Range(), Range(), channels)


def split_of(paths):
    return Split("train", [str(path) for path in paths], {"label": np.zeros(len(paths), np.int32)}, ("a",))


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_twelve_bits_keep_256_levels(tmp_path, name):
    levels, path = np.arange(4096, dtype=np.uint16).reshape(64, 64), str(tmp_path / name)
    Image.fromarray(levels).save(path)
    shown = read(path, setting="0,4095")
    assert np.unique(shown).size == 256 and shown.max() == 255
    assert np.array_equal(shown[..., 0], np.rint(levels / 4095 * 255))
    assert np.unique(read(path)).size == 17  # the full range


@pytest.mark.parametrize(("setting", "low", "high"), [("image", 100, 355), ("percentiles:20,80", 151, 304)])
def test_a_range_of_each_image_and_band(setting, low, high):
    ramp = np.arange(100.0, 356).reshape(1, 256)
    both = np.stack([ramp, ramp + 5000], axis=-1)
    shown = Range.of(setting).levels(both)
    expected = np.rint(((ramp - low) / (high - low) * 255).clip(0, 255))
    assert np.array_equal(shown[..., 0], expected) and np.array_equal(shown[..., 1], expected)


def test_clipped_values_and_nan_are_remarked():
    image = np.array([[[0.0], [np.nan], [np.inf], [0.5]]], np.float32)
    with remarks() as said:
        assert Range.of("0,1").levels(image).ravel().tolist() == [0, 0, 255, 128]
    assert said == [
        "25% NaN, read as the lowest value",
        "25% outside data.sixteen_bit=0,1, clipped",
    ]
    with pytest.raises(BadImage, match="every pixel is NaN"):
        Range.of("image").levels(np.full((2, 2, 1), np.nan))


@pytest.mark.parametrize("text", ["twelve", "5", "9,3", "percentiles:60,40", "0,inf", "full:3"])
def test_a_wrong_range_is_refused(text):
    with pytest.raises(UserError, match=r"data\.sixteen_bit="):
        DataConfig(sixteen_bit=text)


def test_channels_of_pillow_modes(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (9, 7, 4)).astype(np.uint8)
    image = Image.fromarray(rgba)
    grey = np.asarray(image.convert("RGB").convert("L"))[..., None]
    assert np.array_equal(read(image, 4), rgba) and np.array_equal(read(image), rgba[..., :3])
    assert np.array_equal(read(image, 1), grey)
    assert np.array_equal(read(image.convert("LA"), 2)[..., 1], rgba[..., 3])
    assert np.array_equal(read(Image.fromarray(grey[..., 0])), np.repeat(grey, 3, axis=-1))
    with pytest.raises(BadImage, match=r"3 channels and the model takes 4: .*--in_channels 3"):
        read(image.convert("RGB"), 4)


def test_arrays_and_npy(tmp_path):
    five, path = values((8, 6, 5)), str(tmp_path / "x.npy")
    np.save(path, five)
    assert np.array_equal(read(path, 5, "0,4095"), np.rint(five / 4095 * 255))
    with pytest.raises(BadImage, match="5 channels and the model takes 3"):
        read(path)
    np.save(path, np.moveaxis(five, -1, 0))
    with pytest.raises(BadImage, match=r"looks like \(C, H, W\)"):
        read(path, 5)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(BadImage, match="array"):
        read(path)
    with pytest.raises(BadImage, match="max_pixels = 10"):
        np.save(path, five)
        open_image(path, Reading(5, Range("full"), 10))


def test_tiff_of_many_bands_and_deep_colours(tmp_path):
    tifffile, path = pytest.importorskip("tifffile"), str(tmp_path / "x.tif")
    for planes, axis in (("contig", -1), ("separate", 0)):
        bands = values((20, 24, 5))
        how = dict(photometric="minisblack", planarconfig=planes)
        tifffile.imwrite(path, np.moveaxis(bands, -1, axis), **how)
        assert np.array_equal(read(path, 5, "0,4095"), np.rint(bands / 4095 * 255))
    colours = values((20, 24, 3))
    tifffile.imwrite(path, colours, photometric="rgb")
    assert np.array_equal(read(path, 3, "0,4095"), np.rint(colours / 4095 * 255))
    four = values((20, 24, 4), 256, np.uint8)
    tifffile.imwrite(path, four, photometric="rgb", extrasamples=("unspecified",))
    assert np.array_equal(read(path, 4), four)
    with pytest.raises(BadImage, match="4 channels and the model takes 3"):
        read(path)  # a fourth band that is no alpha is not dropped
    pages = values((4, 20, 24), 256, np.uint8)
    tifffile.imwrite(path, pages, photometric="minisblack")
    assert np.array_equal(read(path, 4), np.moveaxis(pages, 0, -1))
    assert np.array_equal(read(path, 1)[..., 0], pages[0])


def test_png_of_sixteen_bit_colours(tmp_path):
    imagecodecs, path = pytest.importorskip("imagecodecs"), tmp_path / "x.png"
    colours = values((20, 24, 3))
    path.write_bytes(imagecodecs.png_encode(colours))
    assert np.array_equal(read(str(path), 3, "0,4095"), np.rint(colours / 4095 * 255))


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_geometry_is_pillows_band_by_band(channels):
    bands = values((40, 30, channels), 256, np.uint8)
    picture, box = open_image(bands, Reading(channels)), (3, 4, 27, 38)
    for move in (
        lambda image: eval_crop(image, (16, 16), Resize(0.9)),
        lambda image: resized_crop(image, (30, 40), box, (16, 12), "bicubic"),
        lambda image: turned_crop(image, (30, 40), (0, 0, 20, 20), (8, 8), "bicubic", None, degrees=30),
    ):
        expected = [np.asarray(move(Image.fromarray(bands[..., i]))) for i in range(channels)]
        assert np.array_equal(pixels(move(picture)), np.stack(expected, axis=-1))


def test_batches_of_other_channels(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.fromarray(values((9, 9), 256, np.uint8)).save(path)
    paths.append(tmp_path / "gone.png")
    batches = make_eval_iter(split_of(paths), DataConfig(), batch_size=4, image_size=8, channels=1)
    (batch,) = batches
    assert batch["image"].shape == (4, 8, 8, 1) and batch["weight"].tolist() == [1, 1, 1, 0]


def test_remarks_reach_the_list_of_a_split(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(values()).save(path)
    batches = make_eval_iter(split_of([path]), DataConfig(sixteen_bit="0,100"), batch_size=1, image_size=8)
    assert next(iter(batches))["weight"] == 1 and not batches.bad.report()
    assert (
        "1 image(s) of train" in batches.bad.remarked() and "outside data.sixteen_bit=0,100" in batches.bad.remarked()
    )


@pytest.mark.parametrize(
    ("image", "chosen", "said"),
    [
        (np.array([[0, 4000]], np.uint16), "0,4095", "up to 4000 (1 decoded): read as 12-bit"),
        (np.array([[0, 65000]], np.uint16), "full", "16-bit; --config.data.sixteen_bit=full"),
        (np.array([[0, 0.9]], np.float32), "0,1", "float32 images hold values up to 0.9"),
        (np.array([[0, 1000]], np.int32), "0,1023", "read as 10-bit"),
    ],
)
def test_the_survey_chooses_the_smallest_range(tmp_path, image, chosen, said):
    path = tmp_path / "x.tif"
    Image.fromarray(image).save(path)
    found, lines = survey.settle(survey.look([split_of([path])]), Range(), Range(), 3)
    assert str(found) == chosen and said in lines[-1]
    kept, lines = survey.settle(survey.look([split_of([path])]), Range(), Range.of("0,77"), 3)
    assert str(kept) == "0,77" and "as the weights' images were" in lines[-1]


def test_the_survey_refuses_what_has_no_range_or_other_channels(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([[-5, 900]], np.int32)).save(path)
    with pytest.raises(UserError, match=r"from -5 to 900.*--config\.data\.sixteen_bit=-5,900"):
        survey.settle(survey.look([split_of([path])]), Range(), Range(), 3)
    np.save(tmp_path / "x.npy", values((8, 8, 5), 256, np.uint8))
    with pytest.raises(UserError, match=r"1 of the 1 images.*5 channels and the model takes 3"):
        survey.settle(survey.look([split_of([tmp_path / "x.npy"])]), Range(), Range(), 3)


def test_colour_changes_of_other_channels():
    import jax

    from jaxdino.data.photometric import colours

    planes = jax.numpy.asarray(np.random.default_rng(0).random((2, 4, 6, 6), np.float32))
    strong = dataclasses.replace(PRESETS["strong"], jitter_prob=1.0)
    changed = colours.jitter(jax.random.split(jax.random.key(0), 2), planes, strong)
    plain = dataclasses.replace(strong, saturation=0.0, hue=0.0, gray_prob=0.0)
    assert not np.allclose(changed, planes)  # brightness and contrast change, the rest has no effect
    assert np.array_equal(changed, colours.jitter(jax.random.split(jax.random.key(0), 2), planes, plain))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_white_is_zero_in_tiff_of_any_depth(tmp_path, dtype):
    """Pillow turns 8-bit values round itself, tifffile and deeper values not."""
    tifffile = pytest.importorskip("tifffile")
    grey, path = values((9, 8), 256, np.uint8), str(tmp_path / "x.tif")
    scale = {np.uint8: 1, np.uint16: 257, np.float32: 1 / 255}[dtype]
    tifffile.imwrite(path, ((255 - grey.astype(np.float64)) * scale).astype(dtype), photometric="miniswhite")
    assert np.abs(read(path, 1)[..., 0].astype(int) - grey).max() <= (dtype == np.float32)


def test_signed_eight_bits_have_no_range_of_their_own(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path = str(tmp_path / "x.tif")
    tifffile.imwrite(path, np.array([[-128, 0], [1, 127]], np.int8))
    assert read(path, 1, "-128,127").ravel().tolist() == [0, 128, 129, 255]
    with pytest.raises(UserError, match="signed 8-bit images hold values from -128 to 127"):
        settle([path])


def test_a_picture_in_the_alpha_channel_is_remarked(tmp_path):
    drawn = Image.new("RGBA", (8, 8))
    drawn.putalpha(Image.fromarray(values((8, 8), 256, np.uint8)))
    for image in (drawn, drawn.convert("LA")):
        with remarks() as said:
            assert not read(image).any()
        assert len(said) == 1 and "in its alpha channel" in said[0]
    for image in (drawn.convert("RGB"), Image.fromarray(values((8, 8, 4), 256, np.uint8))):
        with remarks() as said:
            read(image)
        assert not said


def test_pages_that_are_not_read_and_files_that_cannot_be_are_said(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path, empty = str(tmp_path / "x.tif"), tmp_path / "y.tif"
    tifffile.imwrite(path, values((4, 9, 8), 256, np.uint8), photometric="minisblack")
    empty.touch()
    assert settle([path, empty])[1] == [
        "pixels: grey, 1 of several pages, of which only the first is read (2 of 2 files looked at, 1 not readable, "
        f"such as {empty}: the file is empty)"
    ]
    assert settle([path], channels=4)[1] == ["pixels: grey, 1 of several pages (1 of 1 files looked at)"]
    with pytest.raises(UserError, match="has 1 channel, or 4 with one for each page, and the model takes 2"):
        settle([path], channels=2)


def test_arrays_with_channels_first_are_named_before_a_run(tmp_path):
    path = str(tmp_path / "x.npy")
    np.save(path, values((4, 9, 8), 256, np.uint8))
    with pytest.raises(UserError, match=r"takes 4: its shape \(4, 9, 8\) looks like \(C, H, W\)"):
        settle([path], channels=4)


def test_images_beyond_pillows_limit_are_looked_at_where_the_setting_allows_them(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    path = str(tmp_path / "x.png")
    Image.new("L", (10, 10)).save(path)
    with pytest.raises(UserError, match=r"more than max_pixels = 40 pixels: cut .*--config\.data\.max_pixels"):
        settle([path])
    found = survey.look([split_of([path])], 100)
    assert not found.failed


def test_the_survey_decodes_no_image_that_a_run_refuses(tmp_path):
    path = str(tmp_path / "x.png")
    Image.fromarray(values()).save(path)
    assert list(survey.look([split_of([path])], 480).deep) == [path]
    found = survey.look([split_of([path])], 479)
    assert not found.deep and "more than max_pixels = 479" in found.failed[path]


def test_pixels_that_a_geotiff_names_as_no_data_are_no_values(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    path, deep = str(tmp_path / "x.tif"), str(tmp_path / "y.tif")
    tag = [(42113, 2, 0, "-3.4028234663852886e+38", True)]
    lowest = np.finfo(np.float32).min
    tifffile.imwrite(path, np.array([[lowest, 0.0], [0.5, 1.0]], np.float32), extratags=tag)
    (found, line), (low, high) = settle([path])[1], (Range.of("0,1"), Range.of("image"))
    assert "up to 1 (1 decoded), and NaN in" in line and "read as 0 to 1" in line and found
    for setting in (low, high):
        assert read(path, 1, setting).ravel().tolist() == [0, 0, 128, 255]
    tifffile.imwrite(deep, np.array([[65535, 0], [4000, 7]], np.uint16), extratags=[(42113, 2, 0, "65535", True)])
    assert settle([deep])[0] == Range.of("0,4095")


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_bands_of_a_geotiff_as_gdal_writes_it(tmp_path, planes):
    """Tiled, compressed with a predictor, BigTIFF, with the tags of a place on the earth and of no data."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    bands, path = values((33, 40, 5), high=3000, dtype=np.int16), str(tmp_path / "x.tif")
    bands[:3, :3] = -9999
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
    tags = [
        (33550, 12, 3, (10.0, 10.0, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 5e6, 0.0), True),
        (34735, 3, len(keys), keys, True),
        (42113, 2, 0, "-9999", True),
    ]
    how = dict(tile=(16, 16), compression="zlib", predictor=True, bigtiff=True, extratags=tags, metadata=None)
    moved = bands if planes == "contig" else np.moveaxis(bands, -1, 0)
    tifffile.imwrite(path, moved, planarconfig=planes, photometric="minisblack", **how)
    assert np.array_equal(read(path, 5, "0,4095"), np.rint(bands.clip(0) / 4095 * 255))
    assert settle([path], channels=5)[0] == Range.of("0,4095")


def test_floats_and_integers_have_no_range_in_common():
    with pytest.raises(UserError, match="float32 and uint16, which need different ranges: sixteen_bit=percentiles or"):
        survey.range_of([np.ones((2, 2), np.float32), np.full((2, 2), 200, np.uint16)])


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"tile": (16, 16), "compression": "zlib"}, Kind("L", 1, dtype="uint16", decoder="tifffile")),
        ({}, Kind("L", 1, dtype="uint16", decoder="tifffile")),
    ],
)
def test_damaged_deep_images_are_reported_when_they_are_read(tmp_path, options, kind):
    """Not while a value range is chosen: tifffile and imagecodecs raise errors of their own."""
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    file = tmp_path / "x.tif"
    tifffile.imwrite(file, np.ones((32, 32, 4), np.uint16), metadata=None, **options)
    data = file.read_bytes()
    if options:
        data = data.replace(b"\x78\x9c", b"\x78\x00")  # the headers of the compressed blocks
    else:
        data = data.replace((273).to_bytes(2, "little"), (9273).to_bytes(2, "little"))  # the offsets of the pixels
    file.write_bytes(data)
    assert survey.range_of([str(file)], "x") == (Range(), "")
    assert survey._extremes(str(file), kind) is None
