"""The boxes of many images in one array, and what is wrong with boxes as they are written."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdino.data.packed import OnDisk, opened, shared
from jaxdino.data.record import Source

COLUMNS = 6
"""Of the boxes of an image: left, top, right, bottom in pixels of the image; the class; 1 if it counts
neither for nor against a model (see `Boxes.crowd`), else 0."""
MARGIN = 1.0  # pixels that a box may reach out of its image: VOC counts pixels from 1
NOT_NUMBERS = "its corners are not four numbers"
FLAT = "it has no area"
INVERTED = "its right or bottom side comes before the left or top one"
BEYOND = "it reaches out of the image"
UNKNOWN = "its class is not known"
FAULTS = (NOT_NUMBERS, FLAT, INVERTED, UNKNOWN, BEYOND)  # the last one alone leaves the box in use


class BoxLists(Sequence[np.ndarray]):
    """The boxes of N images, as the field "boxes" of a split: entry i is float32 (n, 6), see `COLUMNS`.

    Args:
      rows: float32 (K, 6), the boxes of all images. offsets: int64 (N + 1,): image i has rows offsets[i] to
        offsets[i + 1].
    """

    def __init__(self, rows: np.ndarray, offsets: np.ndarray):
        self.rows, self.offsets = rows, offsets

    @classmethod
    def of(cls, boxes: Sequence[np.ndarray]) -> "BoxLists":
        """Pack the boxes of each image."""
        rows = [np.asarray(one, np.float32).reshape(-1, COLUMNS) for one in boxes]
        counts = np.array([len(one) for one in rows], np.int64)
        whole = np.concatenate([np.zeros((0, COLUMNS), np.float32), *rows])
        return cls(whole, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return BoxLists(self.rows, self.offsets[start : max(start, stop) + 1])
            return self.chosen(range(start, stop, step))
        place = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= place < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self.rows[self.offsets[place] : self.offsets[place + 1]]

    def chosen(self, rows: Sequence[int] | np.ndarray) -> "BoxLists":
        """Return the boxes of some images, in this order."""
        rows = np.asarray(rows, np.int64)
        starts, counts = self.offsets[rows], self.counts[rows]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        inside = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        return BoxLists(self.rows[np.repeat(starts, counts) + inside], offsets)

    @property
    def every(self) -> np.ndarray:
        """The boxes of all images, float32 (n, 6)."""
        return self.rows[self.offsets[0] : self.offsets[-1]]

    @property
    def counts(self) -> np.ndarray:
        """The number of boxes of each image, int64 (N,)."""
        return np.diff(self.offsets)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (shared(self.rows), shared(self.offsets))


def _reopened(rows: np.ndarray | OnDisk, offsets: np.ndarray | OnDisk) -> BoxLists:
    return BoxLists(opened(rows), opened(offsets))


@dataclasses.dataclass(frozen=True)
class Boxes:
    """The boxes of all images of a source as they are written, M of them.

    Attributes:
      row: int64 (M,), the image of each box, ascending. corners: float64 (M, 4), left, top, right, bottom in pixels;
        NaN if not given as numbers. label: int32 (M,), index of the class, -1 if it is not known.
      names: {box: class as written}, of boxes whose class is not known.
      files: N files that hold the boxes of each image; "" for none.
      broken: {image: why its boxes cannot be read}.
      place: function of a box that says where it is written: "a.txt:3".
      crowd: bool (M,): boxes that count neither for nor against a model: groups whose members are not marked one by
        one, and VOC's difficult objects; None: no box is one.
      relative: whether corners are shares of the image's width and height.
    """

    row: np.ndarray
    corners: np.ndarray
    label: np.ndarray
    names: dict[int, str]
    files: Sequence[str]
    broken: dict[int, str]
    place: Callable[[int], str]
    crowd: np.ndarray | None = None
    relative: bool = False

    def in_pixels(self, sizes: np.ndarray) -> "Boxes":
        """Return the boxes in pixels, given the (width, height) of each image, (N, 2)."""
        if not self.relative:
            return self
        corners = self.corners * np.tile(sizes[self.row], 2).astype(np.float64)
        return dataclasses.replace(self, corners=corners, relative=False)

    def some(self, part: slice) -> "Boxes":
        """Return the row, corners, label and crowd of a part of the boxes."""
        crowd = None if self.crowd is None else self.crowd[part]
        arrays = dict(row=self.row[part], corners=self.corners[part], label=self.label[part], crowd=crowd)
        return dataclasses.replace(self, **arrays)

    def faults(self, sizes: np.ndarray) -> np.ndarray:
        """Return the first fault of each box, int8 (M,), an index into `FAULTS`; -1 without one.

        A box reaches out of the image if a corner is more than `MARGIN` pixels outside. Of an image of unknown size,
        0, that is not checked, nor are relative boxes.

        Args:
          sizes: upright (width, height) of each image, (N, 2).
        """
        boxes = self.in_pixels(sizes)
        left, top, right, bottom = boxes.corners.T
        width, height = np.asarray(sizes, np.float64)[self.row].T
        with np.errstate(invalid="ignore"):
            empty = (right <= left) | (bottom <= top)
            beyond = (left < -MARGIN) | (top < -MARGIN) | (right > width + MARGIN) | (bottom > height + MARGIN)
        known = width > 0
        sized = known if self.relative else np.ones(len(self.row), bool)
        tests = (
            np.isnan(self.corners).any(axis=1),
            sized & empty & ((right == left) | (bottom == top)),
            sized & empty,
            self.label < 0,
            known & beyond,
        )
        first = np.full(len(self.row), -1, np.int8)
        for number in reversed(range(len(FAULTS))):
            first[tests[number]] = number
        return first


@dataclasses.dataclass(frozen=True)
class BoxedSource:
    """The images of a source, and the boxes in those of all splits together, in the order of the splits.

    Attributes:
      source: its splits have no field for the boxes yet (see `sources.boxed`).
      unmarked: bool (N,): images of which nothing says whether there are objects; None: no image is one.
    """

    source: Source
    boxes: Boxes
    unmarked: np.ndarray | None = None
