"""Values for every pixel of an image that is never held whole: windows are read, seen and blended row by row.

The same windows in the same batches, and the same products of matrices as in `sliding`: the result is that of the whole
image, bit by bit. Held are the rows of windows that one row of tiles of the result depends on.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxdino.evals.passes import outputs
from jaxdino.evals.sliding import TILE, Grid, Strip, batches, parts, tiles_of
from jaxdino.evals.tiling import RAMP, USUAL, Axis, Size, Tiling


def slide_strips(
    forward: Callable[[Any], Any],
    image: Any,
    out: Size,
    *,
    crop: Size,
    batch_size: int,
    tiling: Tiling = USUAL,
    snap: Size = (1, 1),
    fill: tuple[int, ...] = (),
) -> Iterator[Strip]:
    """Yield the result in strips from the top to the bottom, as `WindowLogits.strips`.

    Args:
      image: has a `shape` (H, W, C), and `image[top:bottom, left:right]`, asked for from the top to the bottom.
      out: (height, width) of the result. The others: see `sliding.slide`.
    """
    grid = Grid(crop, tiling.stride(crop), snap if tiling.blend == RAMP else (0, 0))
    left, held, first, axes = deque(parts(out[0], TILE)), deque[np.ndarray](), 0, None
    for found in _rows(forward, image, out, grid, batch_size, fill):
        if axes is None:
            cells = found.shape[0], found.shape[2] // _columns(image, grid)
            sides = image.shape[:2], grid.crop, grid.stride, cells, out, grid.snap
            rows, columns = axes = [Axis(*axis) for axis in zip(*sides, strict=True)]
            needed = rows.matrix(left[0].start, left[0].stop)
        held.append(found)
        while left and needed[1] <= first + len(held):
            while first < needed[0]:
                held.popleft()
                first += 1
            strip = left.popleft()
            yield strip, tiles_of(strip, np.concatenate(list(held)[: needed[1] - first]), needed[2], columns)
            needed = rows.matrix(left[0].start, left[0].stop) if left else needed


def _columns(image: Any, grid: Grid) -> int:
    """Return the number of windows of a row."""
    return len(grid.starts(image.shape[:2])[1])


def _rows(
    forward: Callable[[Any], Any], image: Any, out: Size, grid: Grid, batch_size: int, fill: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """Yield what each row of windows gives, float32 (h, n, columns * w)."""
    count, row, place = _columns(image, grid), None, 0
    given = batches([(None, image, out)], deque(), grid, batch_size, fill, False)
    left = len(grid.starts(image.shape[:2])[0])

    def step(batch: Any) -> dict[str, Any]:
        return {"logits": forward(batch["image"])}

    for found in outputs(step, given, ("image",)):
        for logits in np.asarray(found["logits"], np.float32):
            if not left:
                return  # the padding of the last batch
            height, width, classes = logits.shape
            row = np.empty((height, classes, count, width), np.float32) if row is None else row
            row[:, :, place] = logits.transpose(0, 2, 1)
            place += 1
            if place == count:
                yield row.reshape(height, classes, -1)
                row, place, left = None, 0, left - 1
