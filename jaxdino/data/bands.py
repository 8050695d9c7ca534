"""Images that are no Pillow images: of any number of bands, and colours as their decoder leaves them."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from PIL import Image


class Bands:
    """An image of n bands, each a Pillow image of mode "L", with the geometric methods of a Pillow image.

    Pillow multiplies the colours of an RGBA or LA image by its alpha when it resizes, which is wrong for bands that are
    not alpha. Pillow also has no modes of more than four bands.
    """

    mode = "bands"

    def __init__(self, bands: Iterable[Image.Image]):
        self.bands = tuple(bands)

    size = property(lambda self: self.bands[0].size)
    width = property(lambda self: self.bands[0].width)
    height = property(lambda self: self.bands[0].height)

    def getbands(self) -> tuple[str, ...]:
        """Return a name for each band."""
        return tuple(map(str, range(len(self.bands))))

    def _each(self, move: Callable[[Image.Image], Image.Image]) -> "Bands":
        return Bands(map(move, self.bands))

    def crop(self, *args: Any, **how: Any) -> "Bands":
        """Crop each band, as `Image.crop`."""
        return self._each(lambda band: band.crop(*args, **how))

    def resize(self, *args: Any, **how: Any) -> "Bands":
        """Resize each band, as `Image.resize`."""
        return self._each(lambda band: band.resize(*args, **how))

    def transform(self, *args: Any, **how: Any) -> "Bands":
        """Transform each band, as `Image.transform`."""
        return self._each(lambda band: band.transform(*args, **how))

    def transpose(self, *args: Any, **how: Any) -> "Bands":
        """Transpose each band, as `Image.transpose`."""
        return self._each(lambda band: band.transpose(*args, **how))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.stack([np.asarray(band) for band in self.bands], axis=-1).astype(dtype or np.uint8, copy=False)


class Levels:
    """An RGB image as the array of its decoder, with the geometric methods of a Pillow image.

    Pillow keeps four bytes for each pixel: a copy that crops and flips do not need. Other methods make it.
    """

    mode = "RGB"

    def __init__(self, levels: np.ndarray):
        self.levels = levels  # uint8 (H, W, 3)

    size = property(lambda self: self.levels.shape[1::-1])
    width = property(lambda self: self.levels.shape[1])
    height = property(lambda self: self.levels.shape[0])

    @property
    def pillow(self) -> Image.Image:
        """The Pillow image."""
        result = Image.new("RGB", self.size, None)
        result.frombytes(np.ascontiguousarray(self.levels).data)  # as fromarray, which fills it with black first
        return result

    def crop(self, box: tuple[int, int, int, int]) -> "Levels":
        """Crop to a box inside of the image, without a copy."""
        left, top, right, bottom = box
        return Levels(self.levels[top:bottom, left:right])

    def resize(self, *args: Any, **how: Any) -> Image.Image:
        """Resize, as `Image.resize`."""
        return self.pillow.resize(*args, **how)

    def transform(self, *args: Any, **how: Any) -> Image.Image:
        """Transform, as `Image.transform`."""
        return self.pillow.transform(*args, **how)

    def transpose(self, *args: Any, **how: Any) -> Image.Image:
        """Transpose, as `Image.transpose`."""
        return self.pillow.transpose(*args, **how)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.levels.astype(dtype or np.uint8, copy=bool(copy))


Picture = Image.Image | Bands | Levels


def plain(picture: Picture) -> Image.Image | Bands:
    """Return the picture with all of Pillow's methods."""
    return picture.pillow if isinstance(picture, Levels) else picture


def of_levels(levels: np.ndarray) -> Picture:
    """Convert uint8 (H, W, C) to a picture: mode "L" for one band, "RGB" for three, otherwise `Bands`."""
    if levels.shape[-1] == 1:
        return Image.fromarray(np.ascontiguousarray(levels[..., 0]))
    if levels.shape[-1] == 3:
        return Image.fromarray(np.ascontiguousarray(levels))
    return Bands(Image.fromarray(np.ascontiguousarray(levels[..., i])) for i in range(levels.shape[-1]))


def pixels(picture: Picture) -> np.ndarray:
    """Convert a picture to uint8 (H, W, C)."""
    levels = np.asarray(picture)
    return levels[..., None] if levels.ndim == 2 else levels
