"""Write values of a large image as they come, in strips: a tiled, compressed TIFF with the place on the earth, or .npy.

Source: TIFF 6.0, section 15; OGC GeoTIFF 1.1, section 7 (the tags that say where an image lies).
"""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from jaxdino.data.image_file import TIFF_MAGIC, bytes_of
from jaxdino.data.kinds import tifffile
from jaxdino.data.stored import ImageFile

SIDE = 512  # pixels of a tile
GEOGRAPHIC = (33550, 33922, 34264, 34735, 34736, 34737)
"""Tags: pixel scale, tie points, transformation, and the keys of the coordinate system with their numbers and texts."""


def write_tiff(
    file: BinaryIO,
    strips: Iterable[np.ndarray],
    size: tuple[int, int],
    dtype: type,
    source: ImageFile,
    colours: np.ndarray | None = None,
) -> None:
    """Write values to an open file, which can be sought; a few strips are held.

    Args:
      strips: arrays (rows, W) from the top, each of `SIDE` rows but the last. size: (width, height).
      source: the image that they belong to; the tags `GEOGRAPHIC` of a TIFF are copied.
      colours: a palette, uint8 (256, 3), for values of 8 bits.

    Raises:
      BadImage: if tifffile is not installed.
    """
    width, height = size
    how: dict[str, Any] = {"photometric": "minisblack"}
    if colours is not None:
        how = {"photometric": "palette", "colormap": colours.T.astype(np.uint16) * 257}
    kept, bytes_of_all = _geographic(source), width * height * np.dtype(dtype).itemsize
    with tifffile().TiffWriter(file, bigtiff=bytes_of_all > 2**31) as tif:
        tif.write(
            _tiles(strips, width, dtype),
            shape=(height, width),
            dtype=dtype,
            tile=(SIDE, SIDE),
            compression="zlib",
            metadata=None,
            extratags=kept,
            maxworkers=1,
            **how,
        )


def _tiles(strips: Iterable[np.ndarray], width: int, dtype: type) -> Iterator[np.ndarray]:
    for strip in strips:
        for left in range(0, width, SIDE):
            tile, part = np.zeros((SIDE, SIDE), dtype), strip[:, left : left + SIDE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def _geographic(source: ImageFile) -> list[tuple[int, Any, int, Any, bool]]:
    """Return the tags of a TIFF that say where it lies on the earth, as tifffile writes them."""
    with bytes_of(source) as file:
        if file.read(4) not in TIFF_MAGIC:
            return []
    with bytes_of(source) as file, tifffile().TiffFile(file) as tif:
        found = [tif.pages[0].tags.get(code) for code in GEOGRAPHIC]
        return [(tag.code, tag.dtype, tag.count, tag.value, True) for tag in found if tag is not None]


def write_npy(file: BinaryIO, strips: Iterable[np.ndarray], size: tuple[int, int], dtype: type) -> None:
    """Write values (H, W) to an open file as np.save does; `strips` and `size` as in `write_tiff`."""
    shown = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": size[::-1]}
    np.lib.format.write_array_header_1_0(file, shown)
    for strip in strips:
        file.write(np.ascontiguousarray(strip, dtype).tobytes())
