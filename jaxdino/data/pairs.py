"""A pair: an image, and the mask of what its prompt names. Masks are read late, as images are."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdino.data.bad_images import BadImage
from jaxdino.data.checks import TURNS
from jaxdino.data.kinds import SIXTEEN_BIT, orientation_of
from jaxdino.data.reasons import lift_limit

IGNORED = 255  # of a mask's pixels: neither in nor out
HALF = 127
GREYS = ("1", "L", "P", *SIXTEEN_BIT)


@dataclasses.dataclass(frozen=True)
class Pair:
    """One record of a split of pairs; its label there is the prompt.

    Attributes:
      image: path of a file, or uint8 (H, W, 3).
      mask: uint8 (H, W) of 0, 1 and 255 (ignored), or what reads it, told how many pixels at most it may have and
        raising BadImage; None for an image without a mask.
      present: the labels of all prompts whose thing is in the image, this one's among them.
    """

    image: str | np.ndarray
    mask: np.ndarray | Callable[[int], np.ndarray] | None
    present: tuple[int, ...] = ()

    def read_mask(self, max_pixels: int) -> np.ndarray | None:
        """uint8 (H, W) of 0, 1 and 255; None without a mask. Raises BadImage."""
        return self.mask(max_pixels) if callable(self.mask) else self.mask


@dataclasses.dataclass(frozen=True)
class Scene:
    """One image and all that is known to be in it: what sources list before prompts have numbers.

    Attributes:
      image: as a pair's.
      masks: a mask, as a pair's, for each prompt: the image's pairs.
      absent: those of `masks` that show nothing.
      unpaired: prompts whose thing is in the image without making a pair.
    """

    image: str | np.ndarray
    masks: Mapping[str, np.ndarray | Callable[[int], np.ndarray] | None]
    absent: tuple[str, ...] = ()
    unpaired: tuple[str, ...] = ()

    @property
    def present(self) -> tuple[str, ...]:
        """The prompts of what is in the image."""
        return (*(name for name in self.masks if name not in self.absent), *self.unpaired)


@dataclasses.dataclass(frozen=True)
class FileMask:
    """Reads the mask of one prompt out of a file.

    Attributes:
      path: of the file.
      values: what stands for the prompt; None takes whatever is above 0.
      ignored: the value of pixels that are neither in nor out; None where there is none.
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
    """The values of a mask file, (H, W) of any integer kind: of a palette the indices, of 16 bits all of them.

    Args:
      path: of a file.
      max_pixels: refuses a mask of more, before its pixels are decoded.
      indexed: whether values mean something. If not, only whether they are above 0 counts: then colours are taken
        too, a palette's as well, and JPEG, where above means above 127, as that format smears edges.

    Raises:
      BadImage: for a file that cannot be read, and for colours or JPEG where values mean something.
    """
    if not indexed:
        return _above(path, max_pixels)
    image = _opened(path, max_pixels)
    if image.format in ("JPEG", "MPO"):
        raise BadImage(f"its mask {shown(path)} is a JPEG, which changes values: save masks as PNG")
    if image.mode in GREYS:
        return np.asarray(image)
    levels = _colours(image)
    if (levels != levels[..., :1]).any():
        raise BadImage(f"its mask {shown(path)} has colours, not one value a pixel: save it as grey or with a palette")
    return levels[..., 0]


def shown(path: str) -> str:
    """The end of a path, for reasons, which have to be short."""
    return "/".join(Path(path).parts[-2:])


def _above(path: str, max_pixels: int) -> np.ndarray:
    """bool (H, W)."""
    image = _opened(path, max_pixels)
    low = HALF if image.format in ("JPEG", "MPO") else 0
    if image.mode in GREYS and image.mode != "P":
        return np.asarray(image) > low
    return (_colours(image) > low).any(axis=-1)


def _colours(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 1 or 3), without transparency."""
    if image.mode == "F":
        raise BadImage("its mask has float pixels (mode F): save it with 8 or 16 bits")
    levels = np.asarray(image.convert("L" if image.mode in ("LA", "La") else "RGB"))
    return levels[..., None] if levels.ndim == 2 else levels


def _opened(path: str, max_pixels: int) -> Image.Image:
    """Decoded, and upright by its own EXIF orientation. Raises BadImage."""
    lift_limit(max_pixels)
    try:
        with Image.open(path) as image:
            if image.width * image.height > max_pixels:
                raise BadImage(f"its mask {shown(path)} has more than max_pixels = {max_pixels} pixels")
            image.load()
            upright = image.transpose(TURNS[turn]) if (turn := orientation_of(image)) in TURNS else image
            upright.format = image.format
            return upright
    except BadImage:
        raise
    except Exception as err:  # decoders of broken files raise nearly everything
        what = "is gone" if isinstance(err, FileNotFoundError) else f"cannot be read: {type(err).__name__}"
        raise BadImage(f"its mask {shown(path)} {what}") from err
