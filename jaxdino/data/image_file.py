"""Open image files with Pillow: a fixed list of formats, and HEIC with pillow-heif (an extra).

Every file of the project that is an image is opened here; `kinds` reads those that Pillow does not know, such as DICOM.
Pillow decides by the content, not by the suffix, and knows formats that run other programs (EPS starts Ghostscript) or
read rarely tested code; none of these is tried.
"""

import os
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from jaxdino.data.stored import Stored
from jaxdino.data.tiff_layout import unsound

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Pillow's names of the formats that are read. AVIF needs Pillow 11.3 or newer, HEIF needs pillow-heif."""
LARGEST = 2 << 30  # bytes of a file, except TIFF: Pillow may hold the whole of what stands before the pixels
PAGES = 1000  # at most this many pages of a TIFF are counted
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF = (b"avif", b"avis")
"""Brands in the file header; they identify a file with any suffix. Source: ISO/IEC 23008-12, annex B."""
DICOM = 128, b"DICM"  # offset and bytes of its signature; the bytes before may be those of a TIFF
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class NotOpened(Exception):
    """An image that is not opened, although it may be one; the message says why and what helps."""


def open_file(path: str | Path | Stored) -> Image.Image:
    """Open an image file without decoding its pixels, as `PIL.Image.open` does for the formats of `FORMATS`.

    Raises:
      NotOpened: for a HEIC or AVIF file whose decoder is not installed, a file of more than `LARGEST` bytes, and a
        TIFF that lacks strips or tiles, or has far larger ones than its image or its file.
      PIL.UnidentifiedImageError: for any other format, and DICOM.
      OSError: as `PIL.Image.open`.
    """
    source = path.open() if isinstance(path, Stored) else path
    size = os.path.getsize(source) if isinstance(source, str | Path) else source.seek(0, os.SEEK_END)
    if size > LARGEST and _head(source)[:4] not in TIFF_MAGIC:
        raise NotOpened(f"too large: the file has {size / 2**30:.1f} GiB, at most {LARGEST >> 30} are read")
    try:
        if str(source).lower().endswith(DICOM_SUFFIXES) and is_dicom(source):
            raise UnidentifiedImageError
        image = _open(source)
        if image.format == "TIFF" and is_dicom(source):
            image.close()
            raise UnidentifiedImageError
        return _sound(image, size)
    except UnidentifiedImageError:
        head = _head(source)
        brand = head[8:] if head[4:8] == b"ftyp" else b""
        if brand in AVIF:
            raise NotOpened("an AVIF image: Pillow 11.3 or newer reads it, pip install -U pillow") from None
        if brand not in HEIC:
            raise
        try:
            import pillow_heif
        except ImportError:
            raise NotOpened("a HEIC image: pip install 'jaxdino[heif]'") from None
        pillow_heif.register_heif_opener()
        return _open(source)


def open_bytes(file: BinaryIO) -> Image.Image:
    """Open an image that this program has just written into memory. Raises as `PIL.Image.open` for `FORMATS`."""
    return _open(file)


def bytes_of(path: str | Path | Stored) -> BinaryIO:
    """Open a file, or one that is stored as bytes, for reading its bytes."""
    return path.open() if isinstance(path, Stored) else open(path, "rb")


def _open(source: str | Path | BinaryIO) -> Image.Image:
    Image.init()
    if not isinstance(source, str | Path):
        source.seek(0)
    return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])


def _sound(image: Image.Image, size: int) -> Image.Image:
    """Return the image. Raise NotOpened if it is a TIFF that would take far more memory than it has pixels or bytes."""
    if image.format == "TIFF" and (why := unsound(getattr(image, "tag_v2", {}), size)):
        image.close()
        raise NotOpened(f"damaged: {why}")
    return image


def is_dicom(source: str | Path | Stored | BinaryIO) -> bool:
    """Return whether a file has the signature of DICOM, whatever its suffix."""
    return _head(source.open() if isinstance(source, Stored) else source, *DICOM) == DICOM[1]


def _head(source: str | Path | BinaryIO, start: int = 0, like: bytes = bytes(12)) -> bytes:
    """Return as many bytes from `start` as `like` has."""
    if not isinstance(source, str | Path):
        source.seek(start)
        return source.read(len(like))
    with open(source, "rb") as file:
        file.seek(start)
        return file.read(len(like))


def pages_of(image: Image.Image) -> int:
    """Return the number of pages of a TIFF, at most `PAGES`, and 1 for other formats. The first page stays selected."""
    if image.format != "TIFF":
        return 1
    count = 1
    try:
        while count < PAGES:
            image.seek(count)
            count += 1
    except EOFError:
        pass
    image.seek(0)
    return count
