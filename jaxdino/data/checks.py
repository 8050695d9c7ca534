"""One record to one RGB image, or the reason why not; and the list of the bad ones.

Whatever is in a file, reading it gives an image or a `BadImage`, never another error.
"""

from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image

from jaxdino.core.errors import UserError
from jaxdino.data.heif import Undecoded, open_any
from jaxdino.data.sources import Split

TURNS = {  # EXIF orientation -> what makes it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class BadImage(Exception):
    """A record that gives no image; the message is the reason."""


def open_rgb(
    record: str | np.ndarray,
    max_pixels: int,
    draft: Callable[[tuple[int, int]], int] = lambda full: 1,
) -> Image.Image:
    """Decodes a record to an upright RGB image.

    EXIF orientation is applied. Grey, palette, CMYK and 1-bit images become RGB; an alpha channel is dropped
    as `Image.convert("RGB")` does (and torchvision's folder loader), showing the colour stored under it.
    16-bit grey is scaled by 255 / 65535, the same for every image. Of an animation, the first frame.

    Args:
      record: path of a file, or a uint8 array (H, W, 3).
      max_pixels: refuses an image of more pixels, before its pixels are decoded.
      draft: told the upright full (width, height) of every image, answers with the factor 1, 2, 4 or 8 by
        which a JPEG may be decoded smaller (faster: the decoder skips the finer frequencies).

    Raises:
      BadImage: missing, empty, truncated, undecodable or too large, or without an agreed range (float).
    """
    if not isinstance(record, str):
        image = Image.fromarray(record)
        draft(image.size)
        return image
    # Pillow has a limit of its own: lift it where the user allows more.
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with open_any(record) as image:
            if image.width * image.height > max_pixels:
                raise BadImage(_too_large(f"{image.width} x {image.height}", max_pixels))
            draftable = image.format in ("JPEG", "MPO")
            if not draftable:
                # Before asking for the EXIF: Pillow may decode for it and then hide that this failed, and it
                # turns a TIFF upright itself.
                image.load()
            orientation = orientation_of(image)
            scale = draft(image.size[::-1] if orientation >= 5 else image.size)
            if draftable and scale > 1:
                image.draft(image.mode, (image.width // scale, image.height // scale))
            image.load()
            rgb = to_rgb(image)
            return rgb.transpose(TURNS[orientation]) if orientation in TURNS else rgb
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(_too_large("it", max_pixels)) from None
    except Exception as err:  # decoders of broken files raise nearly everything
        raise BadImage(_reason(record, err)) from err


def _too_large(size: str, max_pixels: int) -> str:
    return f"too large: {size} has more than max_pixels = {max_pixels} pixels"


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none, or none that can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block is no reason to lose the image
        return 1
    return value if value in range(1, 9) else 1


def upright_size(image: Image.Image, expected: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of an opened file once it is upright.

    Args:
      expected: where the file has this size as it is, only an orientation that is told without decoding is asked for.
    """
    told = image.format in ("JPEG", "MPO", "WEBP") or "exif" in image.info
    if image.format == "TIFF" or (image.size == expected and not told):  # Pillow turns a TIFF itself
        return image.size
    return image.size[::-1] if orientation_of(image) >= 5 else image.size


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB: alpha dropped, 16 bits scaled by 255 / 65535. BadImage for float pixels."""
    if image.mode == "RGB":
        return image
    if image.mode in SIXTEEN_BIT:
        levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadImage("float pixels (mode F) have no agreed range: store them with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _reason(path: str, err: Exception) -> str:
    if isinstance(err, FileNotFoundError):
        return "the file is gone"
    if isinstance(err, Undecoded):
        return str(err)
    if isinstance(err, Image.UnidentifiedImageError):
        with open(path, "rb") as file:
            return "not an image Pillow knows" if file.read(1) else "the file is empty"
    return f"{type(err).__name__}: {err}" if str(err) else type(err).__name__


MANY = 0.1  # a larger share of unreadable images is worth a warning


def check_read(bad: "BadImages", unread: int, images: int, warn: Callable[[str], None]) -> None:
    """Warns when many of the images of a pass could not be read.

    Args:
      bad: names them. unread: how many of the `images` gave none. warn: takes one line.

    Raises:
      UserError: if none at all could be read.
    """
    if unread and unread >= images:
        raise UserError(f"no image of {bad.split.name} could be read: {bad.report()}. Mend or remove these files")
    if unread > MANY * images:
        warn(f"WARNING: {unread} of {images} images could not be read in this pass. {bad.report()}")


class BadImages:
    """The records of one split that gave no image: named, counted, skipped or fatal.

    Args:
      split: where the records come from, for their names.
      on_bad: "skip" remembers them, "stop" raises UserError at the first.
    """

    def __init__(self, split: Split, on_bad: str = "skip"):
        self.split = split
        self.on_bad = on_bad
        self.reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, index: int, reason: str) -> bool:
        """Notes a record; True the first time. Raises UserError under "stop"."""
        if self.on_bad == "stop":
            raise UserError(
                f'bad image {self.split.record_name(index)}: {reason}. Mend or remove it, or set on_bad to "skip"'
            )
        new = index not in self.reasons
        self.reasons.setdefault(index, reason)
        return new

    def report(self, first: int = 5) -> str:
        """One line with the count and the first names and reasons; "" when all is well."""
        if not self.reasons:
            return ""
        shown = [f"{self.split.record_name(i)} ({self.reasons[i]})" for i in sorted(self.reasons)[:first]]
        more = f" and {len(self) - first} more" if len(self) > first else ""
        return f"{len(self)} bad image(s) skipped in {self.split.name}: {', '.join(shown)}{more}"
