"""Images of more than `max_pixels`, read in strips of rows: TIFF (GeoTIFF, slides) with tifffile, and .npy.

Declared sizes are checked before a pixel is decoded. What is read has the values that `checks.open_image` gives.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, cast

import numpy as np

from jaxdino.data import tiff_rows
from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import Picture, of_levels, pixels, plain
from jaxdino.data.channels import Reading, of_values, refusal
from jaxdino.data.image_file import TIFF_MAGIC, bytes_of
from jaxdino.data.kinds import Kind, is_npy, kind_of_raw, measured, open_npy
from jaxdino.data.scene_ranges import Ends
from jaxdino.data.stored import ImageFile

MOST = 2**34  # pixels of a scene
STRIP = 2**24  # values of a strip of an array, and of those that are held of any strip to find a range
TALL = 4  # times `max_pixels`, at least the usual one: the largest scene as wide as a result, while it is resized
SMALL = 2**20  # pixels to which any scene may be resized
SAMPLED = 8  # strips whose values are looked at to find a range


def is_scene(path: Any, max_pixels: int) -> bool:
    """Return whether a file has more pixels, and is of a format that is read in parts."""
    if not isinstance(path, ImageFile):
        return False
    try:
        if not is_npy(path):
            with bytes_of(path) as file:
                if file.read(4) not in TIFF_MAGIC:
                    return False
        kind = kind_of_raw(path)
    except Exception:  # decoders raise many error types for broken files; `open_image` gives the reason
        return False
    return kind is not None and kind.size[0] * kind.size[1] > max_pixels


def open_scene(path: ImageFile, reading: Reading) -> "Scene":
    """Open a file for which `is_scene` holds; no pixel is decoded unless the range is each image's own.

    Raises:
      BadImage: if its channels do not fit, its pixels need a range and none is set, it has more than `MOST` pixels, or
        is stored so that parts of it cannot be read.
    """
    kind = kind_of_raw(path)
    if kind is None:
        raise BadImage("neither a TIFF nor an array")
    if kind.size[0] * kind.size[1] > MOST:
        raise BadImage(f"too large: {kind.size[0]} x {kind.size[1]} has more than {MOST:,} pixels")
    if kind.paged(reading.channels):
        raise BadImage("a large TIFF with a page for each channel: store the channels as bands of one page")
    if not kind.fits(reading.channels):
        raise BadImage(refusal(kind, reading.channels))
    blocks, by_pillow = _blocks(path, kind), kind.decoder == "tifffile" and tiff_rows.read_by_pillow(path)
    return Scene(kind, Ends.of(kind, reading.range, blocks, by_pillow), reading, blocks)


def sample(path: ImageFile) -> np.ndarray:
    """Return values (rows, W, C) of some strips, spread evenly, to find the range of a file's values.

    Of a strip with more than `STRIP` values, every n-th row.
    """
    kind = cast(Kind, kind_of_raw(path))  # of a file for which `is_scene` holds
    count = tiff_rows.count(path) if kind.decoder != "numpy" else -(-kind.size[1] // _rows_of(kind))
    chosen = {round(place) for place in np.linspace(0, count - 1, min(count, SAMPLED))}
    thinned = (np.ascontiguousarray(part[:: -(-part.size // STRIP)]) for part in _blocks(path, kind)(chosen))
    return np.concatenate(list(thinned))


def _rows_of(kind: Kind) -> int:
    return max(1, STRIP // (kind.size[0] * kind.bands))


def _blocks(path: ImageFile, kind: Kind) -> "Blocks":
    """Return the function that yields the stored values (rows, W, C) from the top: of all strips, or the given ones."""
    if kind.decoder == "numpy":
        array, rows = open_npy(path), _rows_of(kind)

        def parts(chosen: set[int] | None = None) -> Iterator[np.ndarray]:
            for place, top in enumerate(range(0, kind.size[1], rows)):
                if chosen is None or place in chosen:
                    part = np.array(array[top : top + rows])
                    yield part[..., None] if part.ndim == 2 else part

        return parts
    tiff_rows.check(path)
    return lambda chosen=None: (measured(part, kind) for part in tiff_rows.read(path, chosen))


Blocks = Callable[..., Iterator[np.ndarray]]


class Scene:
    """An image that is never held whole, with those methods of a Pillow image that need a part of it.

    Attributes:
      size: (width, height). channels: of `strips`. notes: what was changed in the last pass, as lines.
    """

    def __init__(self, kind: Kind, ends: Ends, reading: Reading, blocks: Blocks):
        self.kind, self.size, self.channels, self.reading = kind, kind.size, reading.channels, reading
        self.mode = {1: "L", 3: "RGB"}.get(reading.channels, "bands")
        self.notes: list[str] = []
        self._ends, self._blocks = ends, blocks

    width = property(lambda self: self.size[0])
    height = property(lambda self: self.size[1])

    def strips(self) -> Iterator[np.ndarray]:
        """Yield uint8 (rows, W, C) from the top to the bottom."""
        ends = dataclasses.replace(self._ends)
        reading = dataclasses.replace(self.reading, range=ends)  # type: ignore[arg-type]  # has `levels` too
        for values in self._blocks():
            levels = pixels(of_values(ends.shortened(values), self.kind.alpha, reading, self.kind.inverted))
            self.notes = ends.notes()  # before the last strip is given: who has it may ask for no more
            yield levels

    def rows(self) -> "Rows":
        """Return the pixels as windows read them."""
        return Rows(self)

    def resize(
        self, size: tuple[int, int], resample: Any = None, box: Any = None, reducing_gap: float | None = None
    ) -> Picture:
        """Resize to (width, height), as `Image.resize` of the whole: it resizes rows first, then columns.

        Raises:
          BadImage: for a box, and a result above the limit.
        """
        if box is not None:
            self._refuse()
        width, height = size
        limit = self.reading.max_pixels
        if width * height > max(limit, SMALL) or width * self.height > TALL * max(limit, Reading.max_pixels):
            self._refuse()
        across = [pixels(_plain(strip).resize((width, len(strip)), resample)) for strip in self.strips()]
        return _plain(np.concatenate(across)).resize(size, resample)

    def crop(self, box: tuple[int, int, int, int]) -> Picture:
        """Crop to a box inside of the image. Raise BadImage if it is above the limit."""
        left, top, right, bottom = box
        if (right - left) * (bottom - top) > self.reading.max_pixels:
            self._refuse()
        rows, step = self.rows(), 256
        parts = [rows[y : min(y + step, bottom), left:right] for y in range(top, bottom, step)]
        return of_levels(np.concatenate(parts))

    def transform(self, *_: Any, **__: Any) -> NoReturn:
        """Raise BadImage: a scene is only cropped and resized."""
        self._refuse()

    def transpose(self, *_: Any, **__: Any) -> NoReturn:
        """Raise BadImage: a scene is only cropped and resized."""
        self._refuse()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise BadImage(
            f"{self.width} x {self.height} pixels, more than max_pixels = {self.reading.max_pixels}, are read only in "
            "windows or made smaller; a larger max_pixels reads the image whole"
        )


def _plain(levels: np.ndarray) -> Any:
    return plain(of_levels(levels))


class Rows:
    """The pixels of a scene for windows from the top to the bottom: `rows[top:bottom, left:right]`, uint8 (h, w, C).

    No top is above one that was asked for before; rows above it are given up.
    """

    def __init__(self, scene: Scene):
        self.shape = (scene.height, scene.width, scene.channels)
        self._strips, self._top = scene.strips(), 0
        self._held = np.empty((0, *self.shape[1:]), np.uint8)

    def __getitem__(self, places: tuple[slice, slice]) -> np.ndarray:
        rows, columns = places
        bottom, parts = min(rows.stop, self.shape[0]), []
        missing = bottom - self._top - len(self._held)
        while missing > 0:
            parts.append(next(self._strips))
            missing -= len(parts[-1])
        if parts or rows.start > self._top:
            self._held = np.concatenate([self._held, *parts])[rows.start - self._top :]
            self._top = rows.start
        return self._held[: bottom - self._top, columns]
