"""The width and height of all images of a split, from their headers: no pixel is decoded."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from jaxdino.data.checks import upright_size
from jaxdino.data.image_file import open_file
from jaxdino.data.kinds import is_npy, kind_of_raw
from jaxdino.data.reasons import lift_limit
from jaxdino.data.record import Split
from jaxdino.data.stored import ImageFile

THREADS = 8
CHUNK = 256  # images that one thread looks at, at a time


def dimensions(split: Split, max_pixels: int = 0) -> np.ndarray:
    """Return the upright (width, height) of each image, int32 (N, 2); 0, 0 where the header cannot be read.

    Args:
      max_pixels: Pillow's own size limit is raised to this if it is lower.
    """
    lift_limit(max_pixels)
    found = np.zeros((len(split), 2), np.int32)

    def look(start: int) -> None:
        for row in range(start, min(start + CHUNK, len(found))):
            found[row] = _size(split.records[row])

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(look, range(0, len(found), CHUNK)):
            pass
    return found


def _size(record: Any) -> tuple[int, int]:
    """Return the upright (width, height) of an image, or (0, 0)."""
    if isinstance(record, Image.Image):
        return record.size
    if not isinstance(record, ImageFile):
        return record.shape[1], record.shape[0]
    try:
        if is_npy(record):
            return kind_of_raw(record).size
        try:
            with open_file(record) as image:
                return upright_size(image, image.size)
        except Image.UnidentifiedImageError:
            kind = kind_of_raw(record)
            return kind.size if kind else (0, 0)
    except Exception:  # decoders raise many error types for broken files; the run names them when it reads them
        return 0, 0
