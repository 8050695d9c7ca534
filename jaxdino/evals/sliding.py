"""Values for every pixel of images of any size, in windows of the size that the model was trained on.

The windows and their blending are those of `tiling`: one matrix per axis, from the patches of all windows to the pixels
of the result. Nothing of the image's size times the number of classes is ever held: label maps are computed tile by
tile, and what the windows of a very large image give waits in a temporary file.
"""

import dataclasses
import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdino.evals.passes import outputs
from jaxdino.evals.segmentation import IGNORED
from jaxdino.evals.tiling import RAMP, USUAL, Axis, Size, Tiling, starts_of

TILE = 512  # pixels: largest side of a tile
BUDGET = 2**22  # logits in a tile: 16 MB, which was fastest on a CPU
HELD = 2**28  # bytes of an image's patches in memory; more are kept in a temporary file

Tile = tuple[slice, slice]
Strip = tuple[slice, Iterator[tuple[Tile, np.ndarray]]]
"""Rows of a result, and their tiles: (rows, columns), float32 logits (n, rows, columns)."""


@dataclasses.dataclass(frozen=True)
class WindowLogits:
    """The logits of all windows of one image, and what they give at the size of the result.

    Attributes:
      patches: float32 (rows * h, n, columns * w): logits of n classes of the patches (h, w) of the grid of windows.
      rows, columns: the axes.
    """

    patches: np.ndarray
    rows: Axis
    columns: Axis

    def tiles(self) -> Iterator[tuple[Tile, np.ndarray]]:
        """Yield the result in parts: (rows, columns), float32 logits (n, rows, columns)."""
        for _, tiles in self.strips():
            yield from tiles

    def strips(self) -> Iterator[Strip]:
        """Yield (rows, the tiles of these rows), each of a row of tiles, from the top to the bottom."""
        for down in parts(self.rows.out, TILE):
            top, bottom, to_rows = self.rows.matrix(down.start, down.stop)
            yield (
                down,
                tiles_of(down, self.patches[top * self.rows.cells : bottom * self.rows.cells], to_rows, self.columns),
            )

    def logits(self) -> np.ndarray:
        """Return all logits, float32 (n, H, W); large for large images: `tiles` needs less memory."""
        whole = np.empty((self.patches.shape[1], self.rows.out, self.columns.out), np.float32)
        for (down, across), logits in self.tiles():
            whole[:, down, across] = logits
        return whole

    def labels(self) -> np.ndarray:
        """Return the most likely class of each pixel, uint8 (H, W)."""
        return self.judged(None)[0]

    def judged(self, mask: np.ndarray | None) -> tuple[np.ndarray, float]:
        """Return `labels`, and the sum of the cross entropy over the pixels of a mask.

        Args:
          mask: (H, W), 0 to n - 1, or 255 for pixels that are not counted; None: the sum is 0.
        """
        found, loss = np.zeros((self.rows.out, self.columns.out), np.uint8), 0.0
        for tile, logits in self.tiles():
            best = put_likeliest(logits, found[tile])
            if mask is not None:
                total = sum(np.exp(scores - best) for scores in logits)
                kept, truth = mask[tile] != IGNORED, np.where(mask[tile] == IGNORED, 0, mask[tile])
                losses = np.log(total) + best - np.take_along_axis(logits, truth[None].astype(int), axis=0)[0]
                loss += float(losses[kept].sum(dtype=np.float64))
        return found, loss


def tiles_of(down: slice, patches: np.ndarray, to_rows: np.ndarray, columns: Axis) -> Iterator[tuple[Tile, np.ndarray]]:
    """Yield the tiles of a row of them: (rows, columns), float32 logits (n, rows, columns).

    Args:
      down: the rows. patches: float32 (k, n, columns * w) of the windows that they depend on. to_rows: (rows, k).
    """
    classes = patches.shape[1]
    for across in parts(columns.out, TILE):
        left, right, to_columns = columns.matrix(across.start, across.stop)
        part = patches[..., left * columns.cells : right * columns.cells]
        # Two products of large matrices are 20 times faster than one of small matrices for each class.
        part = (part.reshape(-1, part.shape[2]) @ to_columns.T).reshape(len(part), -1)
        for rows in parts(down.stop - down.start, max(1, BUDGET // (classes * (across.stop - across.start)))):
            logits = (to_rows[rows] @ part).reshape(rows.stop - rows.start, classes, -1)
            yield (slice(down.start + rows.start, down.start + rows.stop), across), logits.transpose(1, 0, 2)


def put_likeliest(logits: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Write the most likely class of each pixel into `found`, which holds 0; return its logits, float32 (h, w)."""
    best = logits[0].copy()
    for place, scores in enumerate(logits):
        np.putmask(found, scores > best, place)
        np.maximum(best, scores, out=best)
    return best


def parts(length: int, size: int) -> list[slice]:
    """Return slices of at most `size` that cover a length."""
    return [slice(begin, min(begin + size, length)) for begin in range(0, length, size)]


def slide(
    forward: Callable[[Any], Any],
    images: Iterable[tuple[Any, np.ndarray, Size]],
    *,
    crop: Size,
    batch_size: int,
    tiling: Tiling = USUAL,
    snap: Size = (1, 1),
    fill: tuple[int, ...] = (),
    mesh: Mesh | None = None,
) -> Iterator[tuple[Any, WindowLogits]]:
    """Segment images of any size, one after another.

    Windows of several images fill batches of one shape, so one program is compiled. An image smaller than the window is
    padded at the right and bottom; the padding is cut off the result. In a run of several processes, all of them are
    given all images, and each computes its share of every batch.

    Args:
      forward: compiled, uint8 images (batch_size, *crop, C) -> logits (batch_size, h, w, n); on a mesh, of the whole
        batch.
      images: (anything, uint8 (H, W, C), (height, width) of the result).
      crop: (height, width) of a window. tiling: how windows overlap and are blended.
      snap: for the blend "ramp", the pixels at whose multiples windows begin: those of the coarsest cells.
      batch_size: windows in a batch, over all devices.
      fill: pixel value of each channel outside the image; () is black.
      mesh: shards each batch over its devices.

    Yields:
      (anything, its logits), in the order of `images`.
    """
    begun: deque[_Image] = deque()
    grid = Grid(crop, tiling.stride(crop), snap if tiling.blend == RAMP else (0, 0))
    given = batches(images, begun, grid, batch_size, fill, mesh is not None)

    def step(batch: Any) -> dict[str, Any]:
        return {"logits": forward(batch["image"]), "place": batch["place"]}

    waiting = 0  # windows of the first image in `begun` that are filled
    for out in outputs(step, given, ("image", "place"), mesh):
        for logits in np.asarray(out["logits"], np.float32)[np.argsort(out["place"])]:
            if not begun:
                break  # the padding of the last batch
            begun[0].put(waiting, logits)
            waiting += 1
            if waiting == begun[0].count:
                image, waiting = begun.popleft(), 0
                yield image.key, image.done()


class Grid(NamedTuple):
    """Height and width of windows, of the strides between them, and what they begin at multiples of; see `Axis`."""

    crop: Size
    stride: Size
    snap: Size

    def starts(self, size: Size) -> tuple[list[int], ...]:
        """Return the first rows and the first columns of the windows of an image."""
        return tuple(starts_of(*axis) for axis in zip(size, *self, strict=True))


class _Image:
    """One image that is being segmented: its key, its grid of windows and the logits so far."""

    def __init__(self, key: Any, size: Size, out: Size, how: Grid):
        self.key, self.size, self.out, self.how, self.crop = key, size, out, how, how.crop
        self.grid = how.starts(size)
        self.count = len(self.grid[0]) * len(self.grid[1])
        self._found: np.ndarray | None = None

    def windows(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the windows of the image, row by row."""
        for y in self.grid[0]:
            for x in self.grid[1]:
                yield image[y : y + self.crop[0], x : x + self.crop[1]]

    def put(self, place: int, logits: np.ndarray) -> None:
        """Keep the logits (h, w, n) of a window."""
        height, width, classes = logits.shape
        if self._found is None:
            self._found = _room((len(self.grid[0]), height, classes, len(self.grid[1]), width))
        row, column = divmod(place, len(self.grid[1]))
        self._found[row, :, :, column] = logits.transpose(0, 2, 1)

    def done(self) -> WindowLogits:
        """Return the logits of all windows."""
        found = cast(np.ndarray, self._found)  # every image has a window
        rows, height, classes, columns, width = found.shape
        patches = found.reshape(rows * height, classes, columns * width)
        crop, stride, snap = self.how
        axes = zip(self.size, crop, stride, (height, width), self.out, snap, strict=True)
        return WindowLogits(patches, *(Axis(*axis) for axis in axes))


def _room(shape: tuple[int, ...]) -> np.ndarray:
    """Return room for float32 values: in memory, or above `HELD` bytes in a file that goes with the array.

    If the disk has no room for them, they are in memory: a file without room ends the process when it is written.
    """
    size = 4 * math.prod(shape)
    if size <= HELD:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:
        try:
            getattr(os, "posix_fallocate", lambda *_: None)(file.fileno(), 0, size)
        except OSError:
            return np.empty(shape, np.float32)
        return np.memmap(file, np.float32, "w+", shape=shape)


def batches(
    images: Iterable[tuple[Any, np.ndarray, Size]],
    begun: deque[_Image],
    grid: Grid,
    batch_size: int,
    fill: tuple[int, ...],
    shared: bool,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of windows, or this process's share of each, and append the images that they come from."""
    share = batch_size // jax.process_count() if shared else batch_size
    first = share * jax.process_index() if shared else 0
    place, held = 0, None
    for key, image, out in images:
        one = _Image(key, image.shape[:2], out, grid)
        begun.append(one)
        for window in one.windows(image):
            held = _blank((share, *grid.crop, image.shape[2]), fill) if held is None else held
            if first <= place < first + share:
                held[place - first, : window.shape[0], : window.shape[1]] = window
            place += 1
            if place == batch_size:
                yield {"image": held, "place": np.arange(first, first + share, dtype=np.int32)}
                place, held = 0, None
    if held is not None:
        yield {"image": held, "place": np.arange(first, first + share, dtype=np.int32)}


def _blank(shape: tuple[int, ...], fill: tuple[int, ...]) -> np.ndarray:
    """Return windows of the fill colour."""
    return np.zeros(shape, np.uint8) + np.asarray(fill or 0, np.uint8)
