"""The libraries that decode and resize the images of training: Pillow, or faster ones with nearly the same pixels.

simplejpeg decodes JPEGs with libjpeg-turbo, as Pillow does, and gives exactly Pillow's pixels. cykooz-resizer computes
Pillow's antialiased filters with vector instructions; pixels differ by at most five levels of 255, by a quarter of a
level on average. Evaluation and prediction always use Pillow.
"""

import dataclasses
import functools
import importlib.metadata
import threading
from typing import Any

import numpy as np
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.data.bands import Bands, Levels, Picture

AUTO, FAST, SLOW = "auto", "fast", "pillow"
DECODERS = (AUTO, SLOW, FAST)
LIBRARIES = ("simplejpeg", "cykooz-resizer")
INSTALL = "pip install 'jaxdino[fast]'"
MODES = {"RGB": ("YCbCr", "RGB", 3), "L": ("Gray", "GRAY", 1)}
"""Pillow's mode of a JPEG -> (its colours in the file, their name as the output of simplejpeg, bytes of a pixel)."""
LARGEST = 64 << 20  # bytes of a JPEG that is read into memory whole
START_OF_FRAME, START_OF_SCAN, END_OF_IMAGE = 0xC0, 0xDA, b"\xff\xd9"  # of a baseline JPEG
BELOW = 2  # rows of the result: the colours of the last one that is needed may be interpolated with these
FILTERS = {
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "catmull_rom",
    Image.Resampling.LANCZOS: "lanczos3",
}
"""Pillow's filter -> the same one in cykooz-resizer. Others are computed by Pillow."""
_own = threading.local()  # a resizer keeps buffers, so each thread has its own


@dataclasses.dataclass(frozen=True)
class Decoder:
    """How an opened image is decoded, and a picture resized.

    Attributes:
      fast: whether the faster libraries are used where they can be; otherwise Pillow.
    """

    fast: bool = False

    def load(self, image: Image.Image, scale: int = 1, rows: int | None = None) -> Image.Image | Levels:
        """Decode an opened image whose header was checked; at 1 / `scale` (1, 2, 4, 8) of its size for a JPEG.

        What is not a plain JPEG of 8-bit grey or YCbCr, and what simplejpeg refuses, is decoded by Pillow.

        Args:
          rows: how many rows of the file are needed, from its first; those below may have any values. None: all.

        Raises: the errors of Pillow.
        """
        found = _jpeg(image, scale, rows) if self.fast and image.format == "JPEG" and image.mode in MODES else None
        if found is not None:
            return found
        if scale > 1:
            image.draft(image.mode, (image.width // scale, image.height // scale))
        image.load()
        return image

    def resized(
        self,
        picture: Picture,
        size: tuple[int, int],
        resample: Image.Resampling,
        box: tuple[float, float, float, float] | None = None,
        reducing_gap: float | None = None,
    ) -> Picture:
        """Resize `box` of a picture to `size` (width, height), as `Image.resize`.

        Args:
          reducing_gap: see `Image.resize`; the fast library computes the whole filter instead.
        """
        if not self.fast or resample not in FILTERS:
            return picture.resize(size, resample, box=box, reducing_gap=reducing_gap)
        if isinstance(picture, Levels):
            return _resized_levels(picture, size, resample, box)
        if isinstance(picture, Bands):
            return Bands(_resized(band, size, resample, box) for band in picture.bands)
        return _resized(picture, size, resample, box)


PILLOW = Decoder()


def chosen(setting: str) -> str:
    """Return "fast" or "pillow" for a value of `data.decoder`; "auto" is "fast" if its libraries are installed.

    Raises:
      UserError: for "fast" without its libraries.
    """
    if setting == AUTO:
        return FAST if usable() else SLOW
    if setting == FAST and not usable():
        raise UserError(
            f"data.decoder=fast needs {' and '.join(LIBRARIES)}: {INSTALL}, or data.decoder=pillow for a run that "
            "did not begin with fast"
        )
    return setting


def decoder_of(setting: str) -> Decoder:
    """Return the decoder of a value of `data.decoder`. Raises UserError as `chosen`."""
    return Decoder(chosen(setting) == FAST)


def described(decoder: str) -> str:
    """Return the line of the log for "fast" or "pillow"."""
    if decoder == SLOW:
        return f"decoder: pillow; {INSTALL} trains with faster libraries (data.decoder=fast)"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return f"decoder: fast ({versions}) for training images; data.decoder=pillow uses Pillow"


@functools.cache
def usable() -> bool:
    """Return whether the fast libraries are installed and work with this version of Pillow."""
    try:
        import simplejpeg  # noqa: F401

        small = _resized(Image.new("RGB", (4, 4), (1, 2, 3)), (2, 2), Image.Resampling.BICUBIC, None)
    except Exception:  # missing, or made for another Pillow
        return False
    return small.getpixel((1, 1)) == (1, 2, 3)


def _jpeg(image: Image.Image, scale: int, rows: int | None) -> Image.Image | Levels | None:
    """Decode an opened JPEG with simplejpeg; None for one that Pillow must decode, or explain."""
    import simplejpeg

    file: Any = image.fp
    file.seek(0)
    data = file.read(LARGEST + 1)
    stored, colours, bands = MODES[image.mode]
    try:
        height, width, found, _ = simplejpeg.decode_jpeg_header(data)
        if len(data) > LARGEST or found != stored or (width, height) != image.size:
            return None
        begun, last = (data, height) if rows is None else _beginning(data, height, rows, scale)
        levels = np.empty((-(-height // scale), -(-width // scale), bands), np.uint8)
        shape = -(-last // scale), levels.shape[1]
        how = dict(min_height=shape[0], min_width=shape[1], min_factor=scale, strict=begun is data, buffer=levels)
        decoded = simplejpeg.decode_jpeg(begun, colours, fastdct=False, fastupsample=False, **how)
    except ValueError:  # damaged: Pillow decodes what can be decoded, or says what is wrong
        return None
    if decoded.shape[:2] != shape:
        return None
    return Levels(levels) if image.mode == "RGB" else Image.fromarray(levels[..., 0])


def _beginning(data: bytes, height: int, rows: int, scale: int) -> tuple[bytes | bytearray, int]:
    """Return a JPEG and its height, changed to end below its first `rows` rows; or as given where it cannot.

    A decoder stops at the height in the header: its work is that of the rows. It warns about the data that is left
    over; the same warnings tell of damage, which Pillow ignores too, but for a file that was cut off: that has no end.
    """
    last = (-(-rows // scale) + BELOW) * scale
    place = _place_of_height(data) if last < height and data.endswith(END_OF_IMAGE) else None
    if place is None:
        return data, height
    begun = bytearray(data)
    begun[place : place + 2] = last.to_bytes(2)
    return begun, last


def _place_of_height(data: bytes) -> int | None:
    """Return where a JPEG has its height; None for one with several scans, each of which has values of all rows."""
    at, place = 2, None
    while at + 10 < len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == START_OF_FRAME:
            place = at + 5
        elif kind == START_OF_SCAN:
            return place if place is not None and data[at + 4] == data[place + 4] else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _options(resample: Image.Resampling, crop: Any) -> Any:
    import cykooz_resizer as cykooz

    algorithm = cykooz.ResizeAlg.convolution(cykooz.FilterType[FILTERS[resample]])
    return cykooz.ResizeOptions(resize_alg=algorithm, crop_box=crop, use_alpha=False)


def _crop(picture: Picture, box: tuple[float, float, float, float] | None) -> Any:
    import cykooz_resizer as cykooz

    if not hasattr(_own, "resizer"):
        _own.resizer = cykooz.Resizer()
    if box is None:
        return None
    left, top = box[:2]
    return cykooz.CropBox(left, top, min(box[2], picture.width) - left, min(box[3], picture.height) - top)


def _resized_levels(
    picture: Levels,
    size: tuple[int, int],
    resample: Image.Resampling,
    box: tuple[float, float, float, float] | None,
) -> Levels:
    import cykooz_resizer as cykooz

    options = _options(resample, _crop(picture, box))
    source = cykooz.ImageData(*picture.size, cykooz.PixelType.U8x3, picture.levels.tobytes())
    result = cykooz.ImageData(*size, cykooz.PixelType.U8x3)
    _own.resizer.resize(source, result, options)
    return Levels(np.frombuffer(result.get_buffer(), np.uint8).reshape(size[1], size[0], 3))


def _resized(
    image: Image.Image,
    size: tuple[int, int],
    resample: Image.Resampling,
    box: tuple[float, float, float, float] | None,
) -> Image.Image:
    options = _options(resample, _crop(image, box))
    result = Image.new(image.mode, size, None)
    _own.resizer.resize_pil(image, result, options)
    return result
