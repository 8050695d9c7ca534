"""Images above the limit on pixels, for commands that write a value for each pixel: all is done in strips of rows."""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxdino.core.bars import bar
from jaxdino.core.options import check_range
from jaxdino.data.channels import Reading
from jaxdino.data.inputs import Input
from jaxdino.data.scene_files import SIDE
from jaxdino.data.scenes import Scene, is_scene

LONGEST = 800  # pixels of the longer side of a picture


def add_windows(parser: argparse.ArgumentParser, of: str | None = None) -> None:
    """Add the flags of large images to a parser; none of them has a default. `of` says which models take them."""
    add = parser.add_argument_group("windows", of).add_argument
    add("--short_side", type=int, metavar="N", help="resize images to it; 0: their own size (default as in evaluation)")
    add("--overlap", type=float, metavar="SHARE", help="of neighbouring windows (default a third)")
    add("--blend", metavar="even|ramp", help="weights of a window's pixels (default even)")
    add("--tta", metavar="flip", help="mean of what windows and mirrored windows give")
    words = "TIFF and .npy of more pixels are read in strips, other images refused (default 67108864)"
    add("--max_pixels", type=int, metavar="N", help=words)


def readings(reading: Reading, max_pixels: int | None) -> Reading:
    """Return a reading of images in parts, where they have more pixels than the limit and their format allows it.

    Raises:
      UserError: for a limit below 1.
    """
    if max_pixels is not None:
        check_range("--max_pixels", max_pixels, "[1, inf)")
    return dataclasses.replace(reading, scenes=True, max_pixels=max_pixels or reading.max_pixels)


def divided(images: Sequence[Input], reading: Reading) -> tuple[list[Input], list[Input]]:
    """Return the images that are read whole, and those that are read in parts."""
    large = [is_scene(image.path, reading.max_pixels) for image in images]
    return tuple([image for image, one in zip(images, large, strict=True) if one == want] for want in (False, True))  # type: ignore[return-value]


class Overview:
    """Every n-th value of an image in n rows, for a picture of it.

    Attributes:
      size: (width, height), at most `LONGEST`. values: (height, width).
    """

    def __init__(self, size: tuple[int, int], dtype: type):
        shrink = max(1.0, max(size) / LONGEST)
        self.size = max(1, round(size[0] / shrink)), max(1, round(size[1] / shrink))
        self._columns, self._rows = (
            ((np.arange(small) + 0.5) * whole / small).astype(int) for small, whole in zip(self.size, size, strict=True)
        )
        self.values = np.zeros(self.size[::-1], dtype)

    def add(self, top: int, strip: np.ndarray) -> None:
        """Take the values of a strip (rows, W) that begins at a row."""
        places = np.flatnonzero((self._rows >= top) & (self._rows < top + len(strip)))
        self.values[places] = strip[self._rows[places] - top][:, self._columns]


def strips(
    found: Iterator[tuple[slice, np.ndarray]], scene: Scene, what: str, see: Callable[[int, np.ndarray], None]
) -> Iterator[np.ndarray]:
    """Yield the values (rows, W) of a scene's strips; `see` is called with the first row and the values of each."""
    for rows, values in bar(found, what, total=-(-scene.height // SIDE), unit="strip"):
        see(rows.start, values)
        yield values


def picture(scene: Scene, overview: Overview) -> np.ndarray:
    """Return the scene at the size of an overview, uint8 (h, w, 3)."""
    from PIL import Image

    from jaxdino.data.bands import pixels

    found: Any = pixels(scene.resize(overview.size, Image.Resampling.BOX))
    return found[..., :3] if found.shape[2] >= 3 else found[..., [0, 0, 0]]
