"""The field "depth": the distance of each pixel in metres, from files of integers or floats."""

import dataclasses
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.bad_images import BadImage
from jaxdino.data.checks import TURNS
from jaxdino.data.crops import Box
from jaxdino.data.fields import Element, Row, Unmoved
from jaxdino.data.geometry import Geometry
from jaxdino.data.image_file import open_file
from jaxdino.data.kinds import SIXTEEN_BIT, is_npy, kind_of, open_npy, orientation_of, stored_values
from jaxdino.data.mask_reading import shown
from jaxdino.data.record import Split

MILLIMETRES = 1000.0  # values per metre of integer files
SAMPLE = 200  # maps whose range is measured before a run
THREADS = min(8, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class DepthMap:
    """Read the depth of all pixels from a file.

    Attributes:
      path: a grey PNG or TIFF of 16 bits, a float TIFF, or a NumPy array (.npy), (H, W).
      per_metre: values per metre; None: 1000 for integers (millimetres), 1 for floats (metres).
    """

    path: str
    per_metre: float | None = None

    def __call__(self, max_pixels: int) -> np.ndarray:
        """Return metres, float32 (H, W), 0 where the depth is not known: 0, negative, infinite or NaN in the file.

        Raises:
          BadImage: if the file is missing or cannot be read, has several channels or more than `max_pixels` pixels, or
            has 8 bits and no `per_metre`.
        """
        values = self._values(max_pixels)
        values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
        if values.ndim != 2 or values.dtype.kind not in "uif":
            what = f"{values.shape[2]} channels" if values.ndim == 3 else f"values of type {values.dtype}"
            raise BadImage(f"its depth map {shown(self.path)} has {what}: one number a pixel is needed")
        if values.dtype.itemsize == 1 and self.per_metre is None:
            raise BadImage(
                f"its depth map {shown(self.path)} has 8 bits, which is usual for pictures of depth, not for depth: "
                "--config.data.depth_scale=N says that N is a metre"
            )
        scale = self.per_metre or (1.0 if values.dtype.kind == "f" else MILLIMETRES)
        with np.errstate(over="ignore", invalid="ignore"):
            metres = (values.astype(np.float64) / scale).astype(np.float32)
            return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))

    def _values(self, max_pixels: int) -> np.ndarray:
        try:
            if is_npy(self.path):
                values = open_npy(self.path)
                self._check(values.shape[0] * values.shape[1], max_pixels)
                return np.asarray(values)
            with open_file(self.path) as image:
                self._check(image.width * image.height, max_pixels)
                if image.mode in SIXTEEN_BIT and (turn := orientation_of(image)) in TURNS:
                    return np.asarray(image.transpose(TURNS[turn]))
                kind = kind_of(image)
            return stored_values(self.path, kind)
        except BadImage:
            raise
        except Exception as err:  # decoders raise many error types for broken files
            what = "does not exist" if isinstance(err, FileNotFoundError) else f"cannot be read: {type(err).__name__}"
            raise BadImage(f"its depth map {shown(self.path)} {what}") from err

    def _check(self, pixels: int, most: int) -> None:
        if pixels > most:
            raise BadImage(f"its depth map {shown(self.path)} has more than max_pixels = {most} pixels")


@dataclasses.dataclass(frozen=True)
class DepthField(Unmoved):
    """The depth of each pixel: the entry "depth", float32 (H, W) in metres, 0 where unknown, outside the image too.

    It is moved by the nearest pixel: a mean of two depths at an edge is the depth of nothing. A crop that enlarges the
    image leaves the metres as they are.
    """

    max_pixels: int
    name: ClassVar[str] = "depth"
    word: ClassVar[str] = "depth map"

    def read(self, element: Element, rng: np.random.Generator | None) -> np.ndarray:
        """Return float32 (H, W) of the whole image. Raises BadImage."""
        depth = element[self.name]
        return depth(self.max_pixels) if callable(depth) else depth

    def size(self, value: np.ndarray) -> tuple[int, int]:
        """Return the (width, height) of the map."""
        return value.shape[1], value.shape[0]

    def wanted(self, value: np.ndarray, box: Box) -> bool:
        """Return whether the depth of any pixel of the box is known."""
        left, top, right, bottom = box
        return bool((value[top:bottom, left:right] > 0).any())

    def move(self, value: np.ndarray, geometry: Geometry, element: Element, rng: np.random.Generator | None) -> Row:
        """Move the map with the image."""
        return {"depth": np.ascontiguousarray(geometry.plane(value, 0), np.float32)}

    def blank(self, element: Element, size: tuple[int, int], rng: np.random.Generator | None) -> Row:
        """Return a map without a known depth."""
        return {"depth": np.zeros(size, np.float32)}


class Seen(NamedTuple):
    """The depths of some maps: smallest and largest in metres, the share of pixels with one, the number of maps."""

    low: float
    high: float
    known: float
    maps: int


def survey(split: Split, max_pixels: int) -> Seen:
    """Return the range of up to `SAMPLE` maps of a split, evenly spaced.

    Raises:
      UserError: if none of them can be read, or none has a pixel of known depth.
    """
    values: Sequence[Any] = split.fields["depth"]
    rows = np.unique(np.linspace(0, len(values) - 1, min(len(values), SAMPLE)).astype(int)).tolist()

    def look(row: int) -> tuple[float, float, int, int] | str:
        try:
            depth = values[row](max_pixels) if callable(values[row]) else values[row]
        except BadImage as err:
            return f"{split.record_name(row)}: {err}"
        known = depth[depth > 0]
        return (float(known.min()), float(known.max()), known.size, depth.size) if known.size else (math.inf, 0, 0, 1)

    with ThreadPoolExecutor(THREADS) as pool:
        looks = list(pool.map(look, rows))
    bad, good = [one for one in looks if isinstance(one, str)], [one for one in looks if not isinstance(one, str)]
    if not good:
        raise UserError(f"none of {len(bad)} depth maps of {split.name} can be read: {few(bad, 2)}")
    low, high, known, pixels = (list(column) for column in zip(*good, strict=True))
    if not sum(known):
        raise UserError(
            f"{len(good)} depth maps of {split.name} have no pixel above 0, where a depth is known: look at the files, "
            "such as that of " + split.record_name(rows[0])
        )
    return Seen(min(low), max(high), sum(known) / sum(pixels), len(good))
