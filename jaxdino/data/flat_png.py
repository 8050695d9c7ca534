"""Decode masks with large areas of one value, the usual ones, by kornia-rs: the values are Pillow's, sooner."""

import importlib.util
from typing import Any

import numpy as np
from PIL import Image

LARGEST = 1 / 16
"""Bytes a pixel of a file with large areas. kornia-rs holds Python's lock, so what takes it longer is Pillow's."""
MARKS = (b"eXIf", b"exif", b"XML:com.adobe.xmp")
"""What a file has that may say how it is turned, before its pixels or after."""
INSTALLED = importlib.util.find_spec("kornia_rs") is not None


def decoded(image: Image.Image) -> np.ndarray | None:
    """Decode an opened PNG of 8-bit grey or palette indices: uint8 (H, W), upright.

    Returns None for another file, for one that may be turned, without the library (the extra `fast`), and for what
    Pillow must decode, or explain.
    """
    file: Any = image.fp
    if not INSTALLED or image.format != "PNG" or image.mode not in ("L", "P") or getattr(image, "is_animated", False):
        return None
    most = int(image.width * image.height * LARGEST)
    file.seek(0)
    data = file.read(most + 1)
    if len(data) > most or any(mark in data for mark in MARKS):
        return None
    from kornia_rs.io import decode_image_png_u8

    try:
        return decode_image_png_u8(data, image.size[::-1], "mono")[..., 0]
    except Exception:  # of fewer bits, or damaged
        return None
