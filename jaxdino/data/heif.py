"""Open HEIC files, the format of many phones, with pillow-heif (an extra). Pillow itself reads AVIF files."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF = (b"avif", b"avis")
"""Brands in the file header; they identify a file with any suffix. Source: ISO/IEC 23008-12, annex B."""


class Undecoded(Exception):
    """An image whose decoder is not installed; the message names the package to install."""


def open_any(path: str | Path) -> Image.Image:
    """Open an image as `PIL.Image.open` does, including HEIC files.

    Raises:
      Undecoded: for a HEIC or AVIF file whose decoder is not installed.
      OSError: as `PIL.Image.open`.
    """
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        brand = _brand(path)
        if brand in AVIF:
            raise Undecoded("an AVIF image: Pillow 11.3 or newer reads it, pip install -U pillow") from None
        if brand not in HEIC:
            raise
        try:
            import pillow_heif
        except ImportError:
            raise Undecoded("a HEIC image: pip install 'jaxdino[heif]'") from None
        pillow_heif.register_heif_opener()
        return Image.open(path)


def _brand(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        head = file.read(12)
    return head[8:12] if head[4:8] == b"ftyp" else b""
