"""An image of some number of channels as the number that a model takes, in 8 bits."""

import dataclasses

import numpy as np
from PIL import Image

from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import Bands, Picture, of_levels
from jaxdino.data.kinds import GREYS, RGB, SIXTEEN_BIT, Kind, unsigned
from jaxdino.data.ranges import Range

FULL = Range("full")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How pixels are read, the same for every image that a model sees.

    Attributes:
      channels: of the image that comes out.
      range: of the values of 16-bit, 32-bit and float pixels.
      max_pixels: an image of more pixels is refused before they are decoded.
    """

    channels: int = RGB
    range: Range = FULL
    max_pixels: int = 64 * 2**20


def refusal(bands: int, channels: int) -> str:
    """Why an image does not fit a model, and what to do."""
    return (
        f"the image has {bands} channel{'s' * (bands > 1)} and the model takes {channels}: "
        f"in_channels={bands} adapts three-channel weights (--config.model.in_channels of a run)"
    )


def of_image(image: Image.Image, dtype: str, reading: Reading) -> Picture:
    """A decoded Pillow image. Raises BadImage.

    Args:
      dtype: of the values in its file, where Pillow holds them as another.
    """
    mode, channels = image.mode, reading.channels
    if mode == "RGB" and channels == RGB:
        return image
    if mode in (*SIXTEEN_BIT, "I", "F"):
        return of_values(unsigned(np.asarray(image), dtype)[..., None], False, reading)
    if mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if channels == RGB:
        return image.convert("RGB")
    if channels == 1:
        return image.convert("L") if mode in GREYS else image.convert("RGB").convert("L")
    bands = image.split()
    if len(bands) != channels:
        raise BadImage(refusal(len(bands), channels))
    return Bands(bands)


def of_values(values: np.ndarray, alpha: bool, reading: Reading) -> Picture:
    """Values (H, W, C) of any numeric dtype, the last band an alpha channel or not. Raises BadImage."""
    bands, channels = values.shape[-1], reading.channels
    if not Kind("bands", bands, alpha).fits(channels):
        first = values.shape[0] == channels
        hint = f"; its shape {values.shape} looks like (C, H, W): store (H, W, C)" if first else ""
        raise BadImage(refusal(bands, channels) + hint)
    if alpha and bands != channels:
        values, alpha = values[..., :-1], False
    if alpha:  # whatever the colours' range, it reaches over all values
        parts = reading.range.levels(values[..., :-1]), FULL.levels(values[..., -1:])
        levels = np.concatenate(parts, axis=-1)
    else:
        levels = reading.range.levels(values)
    if levels.shape[-1] == channels:
        return of_levels(levels)
    return of_levels(levels).convert("L" if channels == 1 else "RGB")
