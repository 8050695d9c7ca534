"""Images of any number of bands, with Pillow's geometry: cropped and resized with antialias, band by band."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from PIL import Image


class Bands:
    """An image of n bands, each a Pillow image of mode "L"; it has the methods of a Pillow image that move pixels.

    Pillow itself multiplies the colours of an RGBA or LA image by its alpha while it resizes: bands that are no alpha
    must not be mixed like that, and more than four it cannot hold.
    """

    mode = "bands"

    def __init__(self, bands: Iterable[Image.Image]):
        self.bands = tuple(bands)

    size = property(lambda self: self.bands[0].size)
    width = property(lambda self: self.bands[0].width)
    height = property(lambda self: self.bands[0].height)

    def getbands(self) -> tuple[str, ...]:
        """A name for each band."""
        return tuple(map(str, range(len(self.bands))))

    def _each(self, move: Callable[[Image.Image], Image.Image]) -> "Bands":
        return Bands(map(move, self.bands))

    def crop(self, *args: Any, **how: Any) -> "Bands":
        """As `Image.crop`."""
        return self._each(lambda band: band.crop(*args, **how))

    def resize(self, *args: Any, **how: Any) -> "Bands":
        """As `Image.resize`."""
        return self._each(lambda band: band.resize(*args, **how))

    def transform(self, *args: Any, **how: Any) -> "Bands":
        """As `Image.transform`."""
        return self._each(lambda band: band.transform(*args, **how))

    def transpose(self, *args: Any, **how: Any) -> "Bands":
        """As `Image.transpose`."""
        return self._each(lambda band: band.transpose(*args, **how))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.stack([np.asarray(band) for band in self.bands], axis=-1).astype(dtype or np.uint8, copy=False)


Picture = Image.Image | Bands


def of_levels(levels: np.ndarray) -> Picture:
    """uint8 (H, W, C) -> a picture: mode "L" of one band, "RGB" of three, else `Bands`."""
    if levels.shape[-1] == 1:
        return Image.fromarray(np.ascontiguousarray(levels[..., 0]))
    if levels.shape[-1] == 3:
        return Image.fromarray(np.ascontiguousarray(levels))
    return Bands(Image.fromarray(np.ascontiguousarray(levels[..., i])) for i in range(levels.shape[-1]))


def pixels(picture: Picture) -> np.ndarray:
    """A picture -> uint8 (H, W, C)."""
    levels = np.asarray(picture)
    return levels[..., None] if levels.ndim == 2 else levels
