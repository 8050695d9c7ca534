"""The first page of a TIFF, decoded a row of tiles (or a strip) at a time.

Source: TIFF 6.0, sections 8 (strips), 15 (tiles) and 22 (JPEG); tifffile decodes each tile.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxdino.data.bad_images import BadImage
from jaxdino.data.image_file import bytes_of
from jaxdino.data.kinds import INSTALL, ORIENTATION, tifffile
from jaxdino.data.stored import ImageFile
from jaxdino.data.tiff_layout import unsound

LARGEST = 2**30  # bytes of a row of tiles
JPEG = (6, 7, 34892, 33007)  # compressions whose tables stand in the page
PLAIN = (0, 1, 2)  # PhotometricInterpretation: white is zero, black is zero, RGB
YCBCR = 6
CONVERT = "gdal_translate -co TILED=YES IN OUT.tif, or vips tiffsave IN OUT.tif --tile, makes tiles"


def check(path: ImageFile) -> None:
    """Raise BadImage if the page is damaged, or is stored so that parts of it cannot be read."""
    with bytes_of(path) as file, tifffile().TiffFile(file) as tif:
        page = tif.pages[0]
        if why := unsound({tag.code: tag.value for tag in page.tags}, tif.filehandle.size):
            raise BadImage(f"damaged: {why}")
        if not _down(page) or (page.is_tiled and not page.tilewidth):
            raise BadImage("damaged: its tiles or strips have no pixels")
        held = _down(page) * page.imagewidth * page.samplesperpixel * page.dtype.itemsize
        if held > LARGEST:
            raise BadImage(f"a row of its tiles has {held:,} bytes, at most {LARGEST:,} are held: {CONVERT}")
        if page.photometric not in PLAIN and not (page.photometric == YCBCR and page.compression in JPEG):
            raise BadImage("a large TIFF of a palette, CMYK or Lab, which is read in parts only as grey or RGB")
        turn = page.tags.get(ORIENTATION)
        if turn is not None and turn.value != 1:
            raise BadImage(f"a large TIFF that is stored turned (its orientation is {turn.value}): store it upright")
        if page.imagedepth > 1:
            raise BadImage("a large TIFF of a volume")


def _down(page: Any) -> int:
    """Return the rows of a tile or strip."""
    return int(page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength))


def read_by_pillow(path: ImageFile) -> bool:
    """Return whether Pillow reads 16-bit colours of a file: those of a pixel together, and no big-endian BigTIFF."""
    with bytes_of(path) as file, tifffile().TiffFile(file) as tif:
        return int(tif.pages[0].planarconfig) == 1 and not (tif.is_bigtiff and tif.byteorder == ">")


def count(path: ImageFile) -> int:
    """Return how many parts `read` yields."""
    with bytes_of(path) as file, tifffile().TiffFile(file) as tif:
        page = tif.pages[0]
        return -(-int(page.imagelength) // max(1, _down(page)))


def read(path: ImageFile, chosen: set[int] | None = None) -> Iterator[np.ndarray]:
    """Yield the stored values (rows, W, C) of each row of tiles from the top, or of the chosen ones.

    Raises:
      BadImage: if a tile cannot be decoded.
    """
    with bytes_of(path) as file, tifffile().TiffFile(file) as tif:
        page = tif.pages[0]
        down, height = _down(page), int(page.imagelength)
        across = -(-int(page.imagewidth) // int(page.tilewidth)) if page.is_tiled else 1
        rows = -(-height // down)
        planes = int(page.samplesperpixel) if page.planarconfig == 2 else 1
        for row in range(rows):
            if chosen is not None and row not in chosen:
                continue
            shape = min(down, height - row * down), int(page.imagewidth), int(page.samplesperpixel)
            part = np.full(shape, page.nodata, page.dtype)
            for plane in range(planes):
                first = (plane * rows + row) * across
                _decode(page, range(first, first + across), part[..., plane : plane + 1] if planes > 1 else part)
            yield part


def _decode(page: Any, indices: range, part: np.ndarray) -> None:
    """Decode the tiles of a row into (rows, W, C)."""
    how = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in JPEG else {}
    for index in indices:
        try:
            _put(page, index, part, how)
        except BadImage:
            raise
        except Exception as err:  # decoders raise many error types for broken tiles
            more = f": {INSTALL}" if "imagecodecs" in str(err) else ""
            raise BadImage(f"its tile {index} cannot be decoded: {err or type(err).__name__}{more}") from None


def _put(page: Any, index: int, part: np.ndarray, how: dict[str, Any]) -> None:
    """Decode a tile into the rows that it is of; one that is not stored leaves their values."""
    handle, count = page.parent.filehandle, page.databytecounts[index]
    if not count:
        return
    if page.dataoffsets[index] + count > handle.size:
        raise BadImage(f"damaged: its tile {index} lies beyond the end of the file")
    handle.seek(page.dataoffsets[index])
    stored = handle.read(count)  # before `page.decode` is made, which reads the header of the first JPEG
    decoded, place, _ = page.decode(stored, index, **how)
    if decoded is None:
        return
    left = place[3]
    width = min(decoded.shape[2], part.shape[1] - left)
    part[:, left : left + width] = decoded[0, : len(part), :width]
