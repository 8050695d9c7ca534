import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from jaxdino.core.errors import UserError
from jaxdino.data import image_file
from jaxdino.data.bad_images import BadImage, BadImages
from jaxdino.data.channels import Reading
from jaxdino.data.checks import Part, open_image, open_rgb
from jaxdino.data.ranges import Range
from jaxdino.data.record import Split

LIMIT = 10_000


def gradient(height=24, width=32):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 10, columns * 7, rows + columns], -1).astype(np.uint8)


def saved(tmp_path, image, name="x.png", **options):
    path = str(tmp_path / name)
    image.save(path, **options)
    return path


def pixels(path):
    image = open_rgb(path, LIMIT)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_modes_become_rgb_as_pillow_does(tmp_path, mode):
    image = Image.fromarray(gradient()).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(7)  # nearly transparent: the colour under it stays
    path = saved(tmp_path, image, "x.tif" if mode == "CMYK" else "x.png")
    assert np.array_equal(pixels(path), np.asarray(image.convert("RGB")))


def test_a_transparent_palette_gives_its_colours(tmp_path):
    image = Image.fromarray(gradient()).convert("P")
    path = saved(tmp_path, image, transparency=bytes(range(256)))
    assert np.array_equal(pixels(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, name):
    levels = np.array([[0, 128, 129, 257, 40_000, 65_535]], np.uint16)
    with pytest.warns(UserWarning, match="up to 65535: read as 16-bit"):
        shown = pixels(saved(tmp_path, Image.fromarray(levels), name))
    assert shown[0, :, 0].tolist() == [0, 0, 1, 1, 156, 255]
    assert np.array_equal(shown[..., 0], shown[..., 2])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, name):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(gradient()), name, exif=exif)
    seen = []
    image = open_rgb(path, LIMIT, lambda full: seen.append(full) or Part())
    expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert seen == [expected.size]


def saved_as(file_format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(gradient()).save(file, file_format, **options)
    return file.getvalue()


def long_text() -> PngInfo:
    """8 MB of one letter in a compressed chunk of some kB."""
    info = PngInfo()
    info.add_text("comment", "a" * 8_000_000, zip=True)
    return info


def bad_files():
    png, jpeg = io.BytesIO(), io.BytesIO()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(png, "PNG")
    noise.save(jpeg, "JPEG")
    broken = bytearray(png.getvalue())
    broken[41:50] = bytes(9)  # where the compressed stream begins
    return {
        "empty": (b"", "the file is empty"),
        "text": (b"not an image at all", "not an image Pillow knows"),
        "zeros": (bytes(500), "not an image Pillow knows"),
        "truncated png": (png.getvalue()[:3000], "."),
        "truncated jpeg": (jpeg.getvalue()[:1500], "truncated"),
        "header only": (jpeg.getvalue()[:20], "."),
        "broken png": (bytes(broken), "."),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9", "git lfs pull"),
        "page": (b"\n<!DOCTYPE html><html>404</html>", "a web page instead of an image"),
        "scan": (bytes(128) + b"DICM", "DICOM file"),
        "drawing": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "a PostScript drawing, .*PNG"),
        "targa": (saved_as("TGA"), "not an image Pillow knows"),
        "text bomb": (saved_as("PNG", pnginfo=long_text()), "too large"),
        "text called svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image Pillow knows"),
    }


@pytest.mark.parametrize("kind", bad_files())
def test_a_bad_file_has_a_reason(tmp_path, kind):
    content, reason = bad_files()[kind]
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(BadImage, match=reason):
        open_rgb(str(path), LIMIT)


def test_a_missing_file_and_a_folder_are_bad_images(tmp_path):
    with pytest.raises(BadImage, match="no such file"):
        open_rgb(str(tmp_path / "none.png"), LIMIT)
    with pytest.raises(BadImage, match="IsADirectory"):
        open_rgb(str(tmp_path), LIMIT)


def test_a_huge_image_is_refused_by_its_header(tmp_path):
    path = saved(tmp_path, Image.new("1", (20_000, 20_000)))
    with pytest.raises(BadImage, match="too large"):
        open_rgb(path, LIMIT)
    small = saved(tmp_path, Image.new("L", (100, 101)), "y.png")
    with pytest.raises(BadImage, match="100 x 101 has more than max_pixels = 10000"):
        open_rgb(small, LIMIT)
    assert open_rgb(small, 10_100).size == (100, 101)


def test_pillows_own_limit_gives_way_to_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    path = saved(tmp_path, Image.new("L", (40, 40)))
    assert open_rgb(path, LIMIT).size == (40, 40)


def test_deep_pixels_need_a_range(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.ones((4, 4), np.float32)), "x.tif")
    with pytest.raises(BadImage, match=r"float32 pixels.*data\.sixteen_bit=full"):
        open_image(path, Reading(range=Range("auto")))


def test_draft_decodes_a_jpeg_smaller(tmp_path):
    path = saved(tmp_path, Image.fromarray(gradient(96, 128)), "x.jpg")
    assert open_rgb(path, 20_000, lambda full: Part(4)).size == (32, 24)
    assert open_rgb(saved(tmp_path, Image.fromarray(gradient())), LIMIT, lambda full: Part(4)).size == (32, 24)


def test_bad_images_are_counted_and_named():
    records = [f"/data/train/a/{i}.png" for i in range(9)]
    split = Split("train", records, {"label": np.zeros(9, np.int32)}, ("a",), "/data")
    bad = BadImages(split)
    assert bad.report() == ""
    assert bad.add(3, "empty") and not bad.add(3, "empty") and bad.add(1, "gone")
    assert len(bad) == 2
    assert bad.report() == "2 bad image(s) skipped in train: train/a/1.png (gone), train/a/3.png (empty)"
    assert bad.report(first=1).endswith("and 1 more")
    with pytest.raises(UserError, match=r"bad image train/a/2.png: empty\. .*on_bad"):
        BadImages(split, "stop").add(2, "empty")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("block", ["icc_profile", "exif"])
def test_damaged_profiles_and_exif_do_not_matter(tmp_path, file_format, block):
    garbage = (b"Exif\0\0" if block == "exif" else b"") + np.random.default_rng(3).bytes(900)
    options = {"lossless": True} if file_format == "WEBP" else {}
    (tmp_path / "x").write_bytes(saved_as(file_format, **{block: garbage}, **options))
    found = pixels(str(tmp_path / "x")).astype(int)
    assert np.abs(found - gradient()).mean() < (12 if file_format == "JPEG" else 0.01)


def test_pages_are_counted_up_to_a_limit(tmp_path, monkeypatch):
    pages = [Image.fromarray(gradient()[..., n]) for n in range(3)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with image_file.open_file(tmp_path / "x.tif") as image:
        assert image_file.pages_of(image) == 3
        assert np.array_equal(np.asarray(image), gradient()[..., 0])
        monkeypatch.setattr(image_file, "PAGES", 2)
        assert image_file.pages_of(image) == 2


def test_a_file_of_gigabytes_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(image_file, "LARGEST", 50)
    with pytest.raises(BadImage, match="too large: the file has"):
        pixels(saved(tmp_path, Image.fromarray(gradient())))


def test_one_place_opens_images():
    package = Path(image_file.__file__).parents[1]
    found = {path.name for path in package.rglob("*.py") if re.search(r"\bImage\.open\(", path.read_text())}
    assert found == {"image_file.py"}
