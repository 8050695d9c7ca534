"""Where the windows of a large image lie, and how what they give is blended: for masks, features and anomaly maps.

Windows form a grid, and blending acts on rows and columns separately, so an axis is described alone: it gives one
matrix from the cells (patches) of all windows to the pixels of a result, or weights for each window's cells.

Two ways of blending:
  even  each window's cells are upsampled to its pixels, and a pixel is the mean of the windows that cover it. Windows
        begin anywhere. Published results are measured so.
  ramp  windows begin at cells of one grid; a cell is the mean over the windows that cover it, with weights that fall
        linearly towards the borders of a window, and the grid is upsampled as a whole. A network whose cells do not see
        their neighbours gives the same as on the whole image.

Sources of even: facebookresearch/dinov2 dinov2/eval/segmentation, whose configs (dinov2_vitb14_ade20k_linear_config.py)
slide windows of 512 pixels by 341; open-mmlab/mmsegmentation mmseg/models/segmentors/encoder_decoder.py.
"""

import dataclasses
from functools import cached_property

import numpy as np

from jaxdino.core.options import check_choice, check_range
from jaxdino.models.positions import linear_matrix

EVEN, RAMP = "even", "ramp"

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How windows overlap and are blended.

    Attributes:
      overlap: share of a window's side that it has in common with the next. blend: "even" or "ramp".

    Raises:
      UserError: for an overlap outside of [0, 1), or an unknown blend.
    """

    overlap: float = 1 / 3
    blend: str = EVEN

    def __post_init__(self):
        check_range("overlap", self.overlap, "[0, 1)")
        check_choice("blend", self.blend, (EVEN, RAMP))

    def stride(self, crop: Size) -> Size:
        """Return the pixels from a window to the next, at least 1."""
        return tuple(max(1, int(side * (1 - self.overlap) + 1e-9)) for side in crop)  # type: ignore[return-value]


USUAL = Tiling()
"""A third of a window overlaps with the next, and all windows of a pixel count alike."""


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Return the first pixel of each window along an axis; the last window ends with the image."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(k * stride, length - crop), 0) for k in range(count)]


@dataclasses.dataclass(frozen=True)
class Axis:
    """The rows (or columns) of an image, of its windows and of its result.

    Attributes:
      length: pixels of the image. crop, stride: pixels of a window, and from one to the next.
      cells: patches of a window. out: pixels of the result.
      snap: for "ramp", windows begin at multiples of it, whole numbers of cells; 0 is "even".
    """

    length: int
    crop: int
    stride: int
    cells: int
    out: int
    snap: int = 0

    @cached_property
    def starts(self) -> list[int]:
        """The first pixel of each window."""
        return starts_of(self.length, self.crop, self.stride, self.snap)

    @property
    def cell(self) -> int:
        """Pixels of a cell, for "ramp"."""
        return self.crop // self.cells

    @property
    def grid(self) -> int:
        """Cells of the whole image, for "ramp"; the last ones may lie outside of it."""
        return (self.starts[-1] + self.crop) // self.cell

    @cached_property
    def shares(self) -> np.ndarray:
        """The weight of each cell of each window in the whole grid, for "ramp": float32 (windows, cells)."""
        place = np.arange(self.cells)
        ramp = np.minimum(place + 0.5, self.cells - place - 0.5)
        total = np.zeros(self.grid)
        for start in self.starts:
            total[start // self.cell :][: self.cells] += ramp
        return np.stack([ramp / total[start // self.cell :][: self.cells] for start in self.starts]).astype(np.float32)

    def matrix(self, begin: int, end: int) -> tuple[int, int, np.ndarray]:
        """Return (first, last, matrix): the pixels begin to end - 1 of the result from the patches of the windows.

        Returns:
          the range of windows that the pixels depend on, and float32 (end - begin, (last - first) * cells).
        """
        low, high, share = _taps(begin, end, self.length, self.out)
        first, last, pixels = (self._stitched if self.snap else self._averaged)(low[0], high[-1] + 1)
        return first, last, (1 - share) * pixels[low - low[0]] + share * pixels[high - low[0]]

    def _averaged(self, bottom: int, top: int) -> tuple[int, int, np.ndarray]:
        """Return the windows and the matrix to the pixels bottom to top - 1 of the image, for "even"."""
        covering = [k for k, start in enumerate(self.starts) if start < top and start + self.crop > bottom]
        first, last = covering[0], covering[-1] + 1
        upsample = linear_matrix(self.cells, self.crop)
        pixels = np.zeros((top - bottom, last - first, self.cells), np.float32)
        count = np.zeros((top - bottom, 1, 1), np.float32)
        for k in range(first, last):
            start = self.starts[k]
            inside = slice(max(start, bottom), min(start + self.crop, top))
            rows = slice(inside.start - bottom, inside.stop - bottom)
            pixels[rows, k - first] += upsample[inside.start - start : inside.stop - start]
            count[rows] += 1
        return first, last, (pixels / count).reshape(top - bottom, -1)

    def _stitched(self, bottom: int, top: int) -> tuple[int, int, np.ndarray]:
        """Return the windows and the matrix to the pixels bottom to top - 1 of the image, for "ramp"."""
        low, high, share = _taps(bottom, top, self.grid, self.grid * self.cell)
        least, most = int(low[0]), int(high[-1]) + 1
        covering = [
            k for k, one in enumerate(self.starts) if one // self.cell < most and one // self.cell + self.cells > least
        ]
        first, last = covering[0], covering[-1] + 1
        blended = np.zeros((most - least, last - first, self.cells), np.float32)
        for k in range(first, last):
            start = self.starts[k] // self.cell
            inside = np.arange(max(start, least), min(start + self.cells, most))
            blended[inside - least, k - first, inside - start] = self.shares[k, inside - start]
        blended = blended.reshape(most - least, -1)
        return first, last, (1 - share) * blended[low - least] + share * blended[high - least]


def starts_of(length: int, crop: int, stride: int, snap: int) -> list[int]:
    """Return the first pixel of each window; with `snap`, at multiples of it, the last one perhaps beyond the image."""
    if not snap:
        return window_starts(length, crop, stride)
    return window_starts(-(-max(length, crop) // snap) * snap, crop, max(1, stride // snap) * snap)


def _taps(begin: int, end: int, length: int, out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two of `length` pixels that each of `out` pixels lies between, and the share of the second.

    As torch's bilinear `interpolate`, align_corners=False; see `positions.linear_matrix`.
    """
    step, half = np.float32(length) / np.float32(out), np.float32(0.5)
    centre = np.maximum((np.arange(begin, end, dtype=np.float32) + half) * step - half, np.float32(0))
    low = np.minimum(centre.astype(int), length - 1)
    return low, np.minimum(low + 1, length - 1), (centre - low)[:, None]
