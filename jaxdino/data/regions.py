"""Draw masks from the regions of a COCO file: polygons and run-length encodings.

pycocotools draws them in C without looking at the numbers: a coordinate of 1e9 or NaN ends the process, and a size of
[2147483647, 2] takes 7 GB. Everything is compared with the size of the image before it sees a number.
Source of the encodings: pycocotools, common/maskApi.c.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

POINTS = 3  # the fewest of a polygon
OUTSIDE = 1  # how far a coordinate may lie outside the image, in widths or heights of it


def drawn(part: Any) -> bool:
    """Return whether a "segmentation" value has any region; a polygon needs at least three points."""
    return (
        any(isinstance(one, list) and len(one) >= 2 * POINTS for one in part) if isinstance(part, list) else bool(part)
    )


def union(parts: Sequence[Any], size: tuple[int, int]) -> np.ndarray:
    """Return bool (H, W), the union of the "segmentation" values. Skip polygons of fewer than three points.

    Args:
      parts: COCO "segmentation" values: polygons [[x, y, ...], ...] or run lengths {"size": [H, W], "counts"}.
      size: (height, width) of the image.

    Raises:
      ValueError: for numbers that cannot belong to an image of this size; the message says which.
    """
    whole = np.zeros(size, bool)
    for part in parts:
        if isinstance(part, list):
            polygons = [_polygon(one, size) for one in part]
            codes = coco.frPyObjects([one for one in polygons if one], *size) if any(polygons) else []
        elif isinstance(part, dict):
            codes = [_run_lengths(part, size)]
        else:
            raise ValueError(f"a region is {_shown(part)}, neither polygons nor run lengths")
        if codes:
            whole |= coco.decode(coco.merge(codes)).astype(bool)
    return whole


def _polygon(given: Any, size: tuple[int, int]) -> list[float]:
    """Return a checked polygon, [] for fewer than three points."""
    if not _numbers(given):
        raise ValueError(f"a polygon is {_shown(given)}, not a list of numbers")
    if len(given) % 2:
        raise ValueError(f"a polygon has {len(given)} numbers: x and y are needed for each point")
    if len(given) < 2 * POINTS:
        return []
    points = np.array(given, np.float64).reshape(-1, 2)
    limits = np.array(size[::-1], np.float64)
    with np.errstate(invalid="ignore"):
        inside = (points >= -OUTSIDE * limits) & (points <= (1 + OUTSIDE) * limits)  # false for NaN
    if not inside.all():
        x, y = points[~inside.all(axis=1)][0]
        raise ValueError(f"the point ({x:g}, {y:g}) of a polygon is far outside the image, {size[1]} x {size[0]}")
    length = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()  # pixels that its edges touch
    if length > 2 * size[0] * size[1] + 8 * sum(size):
        raise ValueError(f"a polygon of {len(points)} points is longer than the image has pixels")
    return given


def _run_lengths(part: dict, size: tuple[int, int]) -> Any:
    """Return a checked compressed encoding, {"size": [H, W], "counts": bytes}."""
    if part.get("size") not in (list(size), tuple(size)):
        raise ValueError(f"run lengths are for {_shown(part.get('size'))}, the image is {list(size)} (height, width)")
    counts = part.get("counts")
    if isinstance(counts, list) and _numbers(counts):
        runs = counts
    elif isinstance(counts, str | bytes):
        runs = uncompressed(counts.encode("ascii", "replace") if isinstance(counts, str) else counts)
    else:
        raise ValueError(f"run lengths are {_shown(counts)}, neither a list of numbers nor text")
    if any(not 0 <= run <= size[0] * size[1] or run != int(run) for run in runs) or sum(runs) != size[0] * size[1]:
        raise ValueError(f"the run lengths do not add up to the {size[0] * size[1]} pixels of the image")
    plain: Any = {"size": list(size), "counts": [int(run) for run in runs]}
    return coco.frPyObjects(plain, *size)


def uncompressed(text: bytes) -> list[int]:
    """Return the run lengths of compressed "counts".

    Six bits a character: five of the number, lowest first, and one that says whether more follow; the highest bit of
    the last five is the sign. From the fourth number on, each is the difference to the one two before.

    Raises:
      ValueError: for other characters, a number without an end, and numbers of more than 35 bits.
    """
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((digits & 32) == 0)
    if not digits.size or digits.min() < 0 or digits.max() > 63 or not ends.size or ends[-1] != digits.size - 1:
        raise ValueError("the run lengths are not what COCO compresses")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise ValueError("the run lengths hold a number that is too large")
    places = np.arange(digits.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((digits & 31) << (5 * places), starts)
    values -= ((digits[ends] & 16) > 0) * (np.int64(1) << (5 * lengths))
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values.tolist()


def _numbers(given: Any) -> bool:
    """Return whether it is a list of numbers; NaN and infinity are numbers, whole numbers beyond float64 are not."""
    kinds = (type(one) in (int, float) for one in given) if isinstance(given, list) else (False,)
    return all(kinds) and all(type(one) is float or abs(one) < 2**63 for one in given)


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:57]}..."
