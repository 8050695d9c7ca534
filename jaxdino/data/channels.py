"""Convert an image to the number of channels that a model takes, in 8 bits."""

import dataclasses

import numpy as np
from PIL import Image

from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import Bands, Levels, Picture, of_levels
from jaxdino.data.kinds import GREYS, RGB, SIXTEEN_BIT, Kind, as_stored
from jaxdino.data.ranges import Range, remark

FULL = Range("full")
IN_ALPHA = "the picture is in its alpha channel, which is not read: draw it onto a background first"


@dataclasses.dataclass(frozen=True)
class Reading:
    """Settings for reading pixels, the same for every image of a model.

    Attributes:
      channels: number of channels of the output image.
      range: value range of 16-bit, 32-bit and float pixels.
      max_pixels: images with more pixels are refused before decoding.
      scenes: TIFF and .npy with more pixels are read in parts instead, as `scenes.Scene`.
    """

    channels: int = RGB
    range: Range = FULL
    max_pixels: int = 64 * 2**20
    scenes: bool = False


def refusal(kind: Kind, channels: int) -> str:
    """Return why an image does not fit a model, and how to fix it."""
    bands, (width, height) = kind.bands, kind.size
    pages = f", or {kind.pages} with one for each page," if kind.paged(kind.pages) else ""
    turned = 0 < height < bands and kind.name == "bands"
    first = f"its shape {(height, width, bands)} looks like (C, H, W): store (H, W, C); else " * turned
    return (
        f"the image has {bands} channel{'s' * (bands > 1)}{pages} and the model takes {channels}: {first}"
        f"three-channel weights are adapted by --config.model.in_channels={bands} of a run, or `jaxdino convert import "
        f"--in_channels {bands}`, whose model the other commands take"
    )


def of_image(image: Image.Image | Levels, kind: Kind, reading: Reading) -> Picture:
    """Convert a decoded Pillow image to `reading.channels`. Raise BadImage if it does not fit.

    Args:
      kind: the kind of its file. Pillow holds some values as another type, and keeps inverted grey values inverted.
    """
    mode, channels = image.mode, reading.channels
    if mode == "RGB" and channels == RGB:
        return image
    image = image.pillow if isinstance(image, Levels) else image
    if mode in (*SIXTEEN_BIT, "I", "F"):
        return of_values(as_stored(np.asarray(image), kind)[..., None], False, reading, kind.inverted)
    if mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if channels in (1, RGB) and drawn_in_alpha(image):
        remark(IN_ALPHA)
    if channels == RGB:
        return image.convert("RGB")
    if channels == 1:
        return image.convert("L") if mode in GREYS else image.convert("RGB").convert("L")
    bands = image.split()
    if len(bands) != channels:
        raise BadImage(refusal(kind, channels))
    return Bands(bands)


def drawn_in_alpha(image: Image.Image) -> bool:
    """Return whether all pixels of a decoded image have one colour and only their alpha differs."""
    if image.mode not in ("LA", "RGBA"):
        return False
    *colours, (low, high) = image.getextrema()
    return low < high and all(least == most for least, most in colours)


def of_values(
    values: np.ndarray,
    alpha: bool,
    reading: Reading,
    inverted: bool = False,
    window: tuple[float, float] | None = None,
) -> Picture:
    """Convert values (H, W, C) of any numeric dtype to a picture. Raise BadImage if they do not fit.

    Args:
      alpha: whether the last band is an alpha channel. inverted: whether the lowest value means white.
      window: the values that the file itself names as black and white.
    """
    bands, channels = values.shape[-1], reading.channels
    kind = Kind("bands", bands, alpha, size=values.shape[1::-1])
    if not kind.fits(channels):
        raise BadImage(refusal(kind, channels))
    if alpha and bands != channels:
        values, alpha = values[..., :-1], False
    if alpha:  # alpha always spans the full range of its dtype
        parts = reading.range.levels(values[..., :-1]), FULL.levels(values[..., -1:])
        levels = np.concatenate(parts, axis=-1)
    else:
        levels = reading.range.levels(values, window)
        levels = 255 - levels if inverted else levels
    if levels.shape[-1] == channels:
        return of_levels(levels)
    return of_levels(levels).convert("L" if channels == 1 else "RGB")
