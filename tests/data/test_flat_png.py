"""Masks that kornia-rs decodes: Pillow's values, and Pillow's errors for all others."""

import sys

import numpy as np
import pytest
from PIL import Image

from jaxdino.data import flat_png
from jaxdino.data.bad_images import BadImage
from jaxdino.data.mask_reading import read_values

LIMIT = 1 << 20


@pytest.fixture
def taken(monkeypatch):
    """Whether each mask to come was decoded by kornia-rs."""
    pytest.importorskip("kornia_rs")
    found, decoded = [], flat_png.decoded

    def spying(image):
        values = decoded(image)
        found.append(values is not None)
        return values

    monkeypatch.setattr(flat_png, "decoded", spying)
    return found


def areas(high=6, size=(157, 203)):
    coarse = np.random.default_rng(0).integers(0, high, (5, 7), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST))


def save(path, values, mode="L", **how):
    image = Image.fromarray(values)
    if mode == "P":
        image = Image.fromarray(values, "P")
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(path, **how)
    return str(path)


@pytest.mark.parametrize(("mode", "high"), [("L", 255), ("L", 2), ("P", 255), ("P", 21)])
def test_values_are_those_of_the_file(tmp_path, taken, mode, high):
    values = areas(high)
    path = save(tmp_path / "mask.png", values, mode, bits=8)
    assert np.array_equal(read_values(path, LIMIT, indexed=True), values) and taken == [True]


def test_what_pillow_reads_otherwise_is_left_to_it(tmp_path, taken):
    values, exif = areas(), Image.Exif()
    exif[0x0112] = 6
    deep, noise = values.astype(np.uint16) * 1000, np.random.default_rng(1).integers(0, 9, values.shape, np.uint8)
    files = {
        save(tmp_path / "turned.png", values, exif=exif): np.rot90(values, -1),
        save(tmp_path / "four.png", values, "P", bits=4): values,
        save(tmp_path / "one.png", values > 2): values > 2,
        save(tmp_path / "deep.png", deep): deep,
        save(tmp_path / "noise.png", noise): noise,
        save(tmp_path / "mask.tif", values): values,
    }
    for path, expected in files.items():
        assert np.array_equal(read_values(path, LIMIT, indexed=True), expected), path
    assert not any(taken)


@pytest.mark.parametrize("harm", [lambda data: data[:-60], lambda data: data[:90] + b"\x07" + data[91:]])
def test_a_damaged_mask_is_refused_in_pillows_words(tmp_path, taken, harm):
    path = tmp_path / "mask.png"
    save(path, areas(255))
    path.write_bytes(harm(path.read_bytes()))
    reasons = []
    for largest in (flat_png.LARGEST, 0):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(BadImage) as err:
            patch.setattr(flat_png, "LARGEST", largest)
            read_values(str(path), LIMIT, indexed=True)
        reasons.append(str(err.value))
    assert reasons[0] == reasons[1] and taken == [False, False]


def test_without_the_library_or_with_an_old_one_pillow_reads_the_same(tmp_path, taken, monkeypatch):
    monkeypatch.setattr(flat_png, "library", flat_png.library.__wrapped__)
    monkeypatch.setitem(sys.modules, "kornia_rs.io", None)
    values = areas(255)
    assert np.array_equal(read_values(save(tmp_path / "mask.png", values), LIMIT, indexed=True), values)
    assert taken == [False]
