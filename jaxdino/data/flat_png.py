"""Decode masks with large areas of one value, the usual ones, by kornia-rs: the values are Pillow's, sooner."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

LARGEST = 1 / 16
"""Bytes a pixel of a file with large areas. kornia-rs holds Python's lock, so what takes it longer is Pillow's."""
MARKS = (b"eXIf", b"exif", b"XML:com.adobe.xmp")
"""What a file has that may say how it is turned, before its pixels or after."""


@functools.cache
def library() -> Callable | None:
    """Return kornia-rs' function; None where it is missing, or older than 0.2."""
    try:
        from kornia_rs.io import decode_image_png_u8
    except Exception:  # missing, or broken
        return None
    return decode_image_png_u8


def decoded(image: Image.Image) -> np.ndarray | None:
    """Decode an opened PNG of 8-bit grey or palette indices: uint8 (H, W), upright.

    Returns None for another file, for one that may be turned, without the library (the extra `fast`), and for what
    Pillow must decode, or explain.
    """
    plain = image.format == "PNG" and image.mode in ("L", "P") and not getattr(image, "is_animated", False)
    decode = library() if plain else None
    if decode is None:
        return None
    file: Any = image.fp
    most = int(image.width * image.height * LARGEST)
    file.seek(0)
    data = file.read(most + 1)
    if len(data) > most or any(mark in data for mark in MARKS):
        return None
    try:
        return decode(data, image.size[::-1], "mono")[..., 0]
    except Exception:  # of fewer bits, or damaged
        return None
