"""Whether the strips or tiles of a TIFF can hold its image: decoders take memory for them before they read one."""

from collections.abc import Mapping
from typing import Any

LARGEST_TILE = 2048 * 2048  # pixels, unless the image has more
LARGEST_RAW = 64 << 20  # bytes of a strip or tile without compression, unless the file has a quarter of as many
WIDTH, LENGTH, BITS, COMPRESSION, STRIPS, SAMPLES, ROWS, PLANES = 256, 257, 258, 259, 273, 277, 278, 284
TILE_WIDTH, TILE_LENGTH, TILES = 322, 323, 324
"""Tags of TIFF 6.0, sections 8 and 15."""
SEPARATE = 2  # PlanarConfiguration: each channel has strips or tiles of its own


def unsound(tags: Mapping[int, Any], size: int) -> str:
    """Return what is wrong with the strips or tiles of a page of a TIFF, or "".

    Args:
      tags: the values by their numbers. size: bytes of the file.
    """

    def numbers(tag: int, default: int) -> list[int]:
        found = tags.get(tag, default)
        return [one for one in (found if isinstance(found, tuple) else (found,)) if isinstance(one, int)] or [default]

    (width, *_), (height, *_), (compression, *_) = numbers(WIDTH, 1), numbers(LENGTH, 1), numbers(COMPRESSION, 1)
    tiled = TILES in tags
    across = max(1, numbers(TILE_WIDTH, width)[0] if tiled else width)
    down = max(1, numbers(TILE_LENGTH, height)[0] if tiled else min(height, numbers(ROWS, height)[0]))
    if tiled and across * down > max(LARGEST_TILE, width * height):
        return f"its tiles have {across} x {down} pixels, the image {width} x {height}"
    planes = numbers(SAMPLES, 1)[0] if numbers(PLANES, 1)[0] == SEPARATE else 1
    there = len(numbers(TILES if tiled else STRIPS, 0))
    needed = -(-width // across) * -(-height // down) * planes
    kind = "tiles" if tiled else "strips"
    if there < needed:
        return f"it lists {there} of its {needed} {kind}"
    taken = across * down * sum(numbers(BITS, 1)) // max(1, planes) // 8
    if compression == 1 and taken > max(LARGEST_RAW, 4 * size):
        return f"its {kind} have {taken:,} bytes each, the file has {size:,}"
    return ""
