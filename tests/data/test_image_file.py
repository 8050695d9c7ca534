"""HEIC and AVIF files, and TIFFs whose strips or tiles do not fit the image."""

import sys

import numpy as np
import pytest
from PIL import Image, features

from jaxdino.data.bad_images import BadImage
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image, open_rgb


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth one, which a lossy format keeps nearly as it is."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([rows * 5, columns * 4, rows + columns], axis=-1).astype(np.uint8)


def test_heic_is_read_whatever_its_suffix(tmp_path, picture):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(picture)).save(tmp_path / "photo.heic", quality=95)
    for name in ("photo.heic", "photo.jpg"):
        (tmp_path / name).write_bytes((tmp_path / "photo.heic").read_bytes())
        read = np.asarray(open_rgb(str(tmp_path / name), 10**6), np.int32)
        assert read.shape == picture.shape and np.abs(read - picture).mean() < 3


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "photo.avif", quality=95)
    read = np.asarray(open_rgb(str(tmp_path / "photo.avif"), 10**6), np.int32)
    assert np.abs(read - picture).mean() < 3


@pytest.mark.parametrize(("brand", "words"), [(b"heic", r"pip install 'jaxdino\[heif\]'"), (b"avif", "Pillow 11.3")])
def test_what_is_missing_is_named(tmp_path, monkeypatch, brand, words):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "ID", [])  # of a Pillow without decoders
    monkeypatch.setattr(Image, "_initialized", 2)
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x1cftyp" + brand + bytes(20))
    with pytest.raises(BadImage, match=words):
        open_rgb(str(tmp_path / "photo.jpg"), 10**6)


def test_a_tiff_with_tiles_far_larger_than_the_image_is_refused(tmp_path, picture):
    tifffile = pytest.importorskip("tifffile")
    file = tmp_path / "tiles.tif"
    tifffile.imwrite(file, picture, tile=(16, 16), photometric="rgb")
    np.testing.assert_array_equal(np.asarray(open_rgb(str(file), 10**6)), picture)
    with tifffile.TiffFile(file, mode="r+") as opened:
        opened.pages[0].tags["TileLength"].overwrite(1 << 22)
    with pytest.raises(BadImage, match="tiles have 16 x 4194304 pixels, the image 64 x 48"):
        open_rgb(str(file), 10**6)


@pytest.mark.parametrize(
    ("bands", "tag", "value", "words"),
    [
        (3, "ImageLength", 480, "it lists 6 of its 60 strips"),
        (6, "ImageLength", 480, "it lists 6 of its 60 strips"),
        (6, "SamplesPerPixel", None, None),
    ],
)
def test_a_tiff_without_all_of_its_strips_is_refused_by_every_decoder(tmp_path, bands, tag, value, words):
    tifffile = pytest.importorskip("tifffile")
    file, values = tmp_path / "strips.tif", np.arange(48 * 64 * bands, dtype="uint8").reshape(48, 64, bands)
    tifffile.imwrite(file, values, rowsperstrip=8, photometric="rgb" if bands == 3 else "minisblack", planarconfig=1)
    if value is not None:
        with tifffile.TiffFile(file, mode="r+") as opened:
            opened.pages[0].tags[tag].overwrite(value)
    if words is None:
        np.testing.assert_array_equal(np.asarray(open_image(str(file), Reading(bands))), values)
        return
    with pytest.raises(BadImage, match=words):
        open_image(str(file), Reading(bands))


def test_a_raw_strip_far_larger_than_its_file_is_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    file = tmp_path / "strip.tif"
    tifffile.imwrite(file, np.zeros((4, 8, 6), "float32"), photometric="minisblack", planarconfig=1)
    with tifffile.TiffFile(file, mode="r+") as opened:
        for tag in ("ImageLength", "RowsPerStrip"):
            opened.pages[0].tags[tag].overwrite(1 << 20)
    with pytest.raises(BadImage, match="its strips have 201,326,592 bytes each, the file has"):
        open_image(str(file), Reading(6))
