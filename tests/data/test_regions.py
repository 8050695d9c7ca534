"""COCO regions against pycocotools, and numbers that would end its process."""

import numpy as np
import pytest
from pycocotools import mask as coco

from jaxdino.data import regions

# pycocotools 2.0.11 decodes in a way that numpy 2 frowns at
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SIZE = (37, 53)


def blobs(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.normal(size=SIZE), axis=seed % 2)
    return np.asfortranarray(smooth > 0, dtype=np.uint8)


def counts_of(mask: np.ndarray) -> list[int]:
    """Return the run lengths of a mask, column by column, beginning with zeros."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return runs if flat[0] == 0 else [0, *runs]


@pytest.mark.parametrize("seed", range(6))
def test_run_lengths_are_pycocotools(seed):
    mask = blobs(seed)
    packed = coco.encode(mask)
    assert regions.uncompressed(packed["counts"]) == counts_of(mask)
    for counts in (packed["counts"], packed["counts"].decode(), counts_of(mask)):
        found = regions.union([{"size": list(SIZE), "counts": counts}], SIZE)
        assert np.array_equal(found, mask.astype(bool))


def test_long_runs_have_several_characters():
    mask = np.zeros((2000, 3000), np.uint8, order="F")
    mask[:, 1500:] = 1
    assert regions.uncompressed(coco.encode(mask)["counts"]) == [3_000_000, 3_000_000]


def test_polygons_are_pycocotools():
    rng = np.random.default_rng(0)
    angles = np.sort(rng.uniform(0, 6.28, 9))
    one = np.stack([26 + 30 * np.cos(angles), 18 + 22 * np.sin(angles)], axis=-1).ravel().tolist()  # partly outside
    expected = coco.decode(coco.merge(coco.frPyObjects([one, [1, 1, 5, 1, 5, 6]], *SIZE)))
    assert np.array_equal(regions.union([[one, [1, 1, 5, 1, 5, 6]], [[3, 3, 4, 4]]], SIZE), expected.astype(bool))


SQUARE = [0, 0, 9, 0, 9, 9, 0, 9]
HOSTILE = {
    "nan": ([[float("nan"), *SQUARE[1:]]], "far outside the image, 53 x 37"),
    "large": ([[1e9, *SQUARE[1:]]], r"\(1e\+09, 0\)"),
    "largest": ([[0, 1e308, *SQUARE[2:]]], "far outside"),
    "beyond floats": ([[10**400, *SQUARE[1:]]], "not a list of numbers"),
    "odd": ([SQUARE[:-1]], "7 numbers"),
    "words": ([["a"] * 8], "not a list of numbers"),
    "rectangle": ([SQUARE, [True] * 8], "not a list of numbers"),
    "nested": ([[SQUARE]], "not a list of numbers"),
    "zigzag": ([[0, 0, 52, 36] * 5000], "longer than the image has pixels"),
    "seven gigabytes": ({"size": [2147483647, 2], "counts": [0, 2]}, r"the image is \[37, 53\]"),
    "no size": ({"size": 37, "counts": [0, 37 * 53]}, "run lengths are for 37, the image"),
    "sum": ({"size": [37, 53], "counts": [0, 37 * 53 + 1]}, "do not add up to the 1961 pixels"),
    "negative": ({"size": [37, 53], "counts": [-5, 37 * 53 + 5]}, "do not add up"),
    "float": ({"size": [37, 53], "counts": [0.5, 37 * 53 - 0.5]}, "do not add up"),
    "infinite": ({"size": [37, 53], "counts": [float("inf"), 1]}, "do not add up"),
    "not a number": ({"size": [37, 53], "counts": [float("nan"), 1]}, "do not add up"),
    "characters": ({"size": [37, 53], "counts": "\x7f\x7f"}, "not what COCO compresses"),
    "umlauts": ({"size": [37, 53], "counts": "äö"}, "not add up|not what COCO compresses"),
    "no end": ({"size": [37, 53], "counts": "oooo"}, "not what COCO compresses"),
    "long number": ({"size": [37, 53], "counts": "o" * 9 + "0"}, "too large"),
    "empty": ({"size": [37, 53], "counts": ""}, "not what COCO compresses"),
    "none": ({"size": [37, 53], "counts": None}, "neither a list of numbers nor text"),
    "no counts": ({"size": [37, 53]}, "neither a list of numbers nor text"),
    "a number": (7, "neither polygons nor run lengths"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_numbers_are_refused(name):
    part, message = HOSTILE[name]
    with pytest.raises(ValueError, match=message):
        regions.union([part], SIZE)


def test_random_bytes_never_reach_the_decoder_unchecked():
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(2000):
        counts = bytes(rng.integers(48, 112, rng.integers(1, 30)).tolist())
        try:
            regions.union([{"size": list(SIZE), "counts": counts}], SIZE)
        except ValueError:
            refused += 1
    assert refused > 1900
