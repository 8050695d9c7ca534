"""Read the masks of images from files, lazily, as images are read."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdino.data import flat_png
from jaxdino.data.bad_images import BadImage
from jaxdino.data.checks import TURNS
from jaxdino.data.image_file import open_file
from jaxdino.data.kinds import SIXTEEN_BIT, orientation_of
from jaxdino.data.reasons import lift_limit

IGNORED = 255  # value of mask pixels that are neither foreground nor background
HALF = 127
GREYS = ("1", "L", "P", "I", *SIXTEEN_BIT)


@dataclasses.dataclass(frozen=True)
class FileMask:
    """Read the mask of one prompt from a file.

    Attributes:
      path: path of the file.
      values: mask values of the prompt; None for all values above 0.
      ignored: the value of pixels that are neither foreground nor background, or None.
    """

    path: str
    values: tuple[int, ...] | None = None
    ignored: int | None = None

    def __call__(self, max_pixels: int) -> np.ndarray:
        values = read_values(self.path, max_pixels, self.values is not None)
        mask = (values > 0 if self.values is None else np.isin(values, self.values)).astype(np.uint8)
        if self.ignored is not None:
            mask[values == self.ignored] = IGNORED
        return mask


def read_values(path: str, max_pixels: int, indexed: bool) -> np.ndarray:
    """Read the values of a mask file, (H, W) of any integer type: palette indices, or all 16 bits.

    Args:
      path: path of the file.
      max_pixels: a larger mask is refused before its pixels are decoded.
      indexed: whether each value has a meaning. Otherwise only "above 0" counts, and colours, colour palettes and
        JPEG are accepted too; for JPEG the threshold is 127, since that format blurs edges.

    Raises:
      BadImage: if the file cannot be read, or if `indexed` and it has colours or is a JPEG.
    """
    if not indexed:
        return _above(path, max_pixels)
    with _file(path, max_pixels) as opened:
        if (values := flat_png.decoded(opened)) is not None:
            return values
        image = _upright(opened)
    if image.format in ("JPEG", "MPO"):
        raise BadImage(f"its mask {shown(path)} is a JPEG, which changes values: save masks as PNG")
    if image.mode in GREYS:
        return np.asarray(image)
    levels = _colours(image)
    if (levels != levels[..., :1]).any():
        raise BadImage(f"its mask {shown(path)} has colours, not one value a pixel: save it as grey or with a palette")
    return levels[..., 0]


def read_colours(path: str, max_pixels: int) -> np.ndarray:
    """Read a file of colours, uint8 (H, W, 3). Raises BadImage as `read_values`, and for a JPEG."""
    image = _opened(path, max_pixels)
    if image.format in ("JPEG", "MPO"):
        raise BadImage(f"its mask {shown(path)} is a JPEG, which changes values: save masks as PNG")
    levels = _colours(image)
    return np.broadcast_to(levels, (*levels.shape[:2], 3))


def shown(path: str) -> str:
    """Return the end of a path, to keep reasons short."""
    return "/".join(Path(path).parts[-2:])


def _above(path: str, max_pixels: int) -> np.ndarray:
    """Return bool (H, W), true where the mask is above 0 (127 for JPEG)."""
    image = _opened(path, max_pixels)
    low = HALF if image.format in ("JPEG", "MPO") else 0
    if image.mode in GREYS and image.mode != "P":
        return np.asarray(image) > low
    return (_colours(image) > low).any(axis=-1)


def _colours(image: Image.Image) -> np.ndarray:
    """Return uint8 (H, W, 1 or 3), without transparency."""
    if image.mode == "F":
        raise BadImage("its mask has float pixels (mode F): save it with 8 or 16 bits")
    levels = np.asarray(image.convert("L" if image.mode in ("LA", "La") else "RGB"))
    return levels[..., None] if levels.ndim == 2 else levels


def _opened(path: str, max_pixels: int) -> Image.Image:
    """Open and decode a mask, upright by its own EXIF orientation. Raise BadImage if this fails."""
    with _file(path, max_pixels) as image:
        return _upright(image)


@contextlib.contextmanager
def _file(path: str, max_pixels: int) -> Iterator[Image.Image]:
    """Open a mask; raise BadImage if this fails, if it is too large, or for any error of the work on it."""
    lift_limit(max_pixels)
    try:
        with open_file(path) as image:
            if image.width * image.height > max_pixels:
                raise BadImage(f"its mask {shown(path)} has more than max_pixels = {max_pixels} pixels")
            yield image
    except BadImage:
        raise
    except Exception as err:  # decoders raise many error types for broken files
        what = "does not exist" if isinstance(err, FileNotFoundError) else f"cannot be read: {type(err).__name__}"
        raise BadImage(f"its mask {shown(path)} {what}") from err


def _upright(image: Image.Image) -> Image.Image:
    """Decode an opened mask, and turn it as its EXIF says."""
    image.load()
    upright = image.transpose(TURNS[turn]) if (turn := orientation_of(image)) in TURNS else image
    upright.format = image.format
    return upright
