"""The objects of an image as a map of numbers: which object each pixel belongs to, and the class of each object.

An object is a thing (a cell, a car), or all of an image's pixels of one class of stuff (sky, road).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

NOTHING, IGNORED = 0, -1
"""Pixels of no object, and pixels that are neither trained on nor measured."""


@dataclasses.dataclass(frozen=True)
class Instances:
    """The objects of one image, n of them, each with at least one pixel. Objects never overlap.

    Attributes:
      ids: int32 (H, W): 1 to n, `NOTHING`, or `IGNORED`.
      labels: int32 (n,), the class. crowd: bool (n,), groups whose members are not marked one by one: they count
        neither for nor against a model.
      boxes: float32 (n, 4), left, top, right, bottom around each object, in pixels.
    """

    ids: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, labels: Sequence[int], crowd: Sequence[bool] | None = None) -> "Instances":
        """Return the objects of a map of numbers 1 to n; numbers without a pixel are left out.

        Args:
          labels: the class of each number. crowd: see above; None: no object is one.
        """
        from scipy.ndimage import find_objects  # no other run waits for it

        found = find_objects(np.maximum(ids, 0), len(labels))
        kept = [place for place, one in enumerate(found) if one is not None]
        if len(kept) < len(labels):
            table = np.zeros(len(labels) + 1, np.int32)
            table[1 + np.array(kept, int)] = np.arange(1, len(kept) + 1)
            ids = np.where(ids > 0, table[np.maximum(ids, 0)], ids)
        sides = [found[place] for place in kept]
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in sides]
        groups = np.zeros(len(labels), bool) if crowd is None else np.asarray(crowd, bool).reshape(-1)
        return cls(
            np.ascontiguousarray(ids, np.int32),
            np.asarray(labels, np.int32).reshape(-1)[kept],
            groups[kept],
            np.array(boxes, np.float32).reshape(-1, 4),
        )


class InstanceLists(Sequence[Callable[[int], Instances] | Instances]):
    """The objects of N images, as the field "instances" of a split.

    Entry i is an `Instances`, or a function of `max_pixels` that reads it and raises BadImage.

    Args:
      counts: the number of objects of each image, (N,); -1 if it is not known.
      things: for each class whether its objects are things; others are stuff.
    """

    def __init__(self, entries: Sequence[Any], counts: Sequence[int] | np.ndarray, things: Sequence[bool]):
        self.entries, self.counts, self.things = list(entries), np.asarray(counts, np.int64), tuple(things)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.chosen(range(*index.indices(len(self))))
        return self.entries[index]

    def chosen(self, rows: Sequence[int] | np.ndarray) -> "InstanceLists":
        """Return the objects of some images, in this order."""
        rows = np.asarray(rows, np.int64)
        return InstanceLists([self.entries[row] for row in rows.tolist()], self.counts[rows], self.things)


def read(entry: Any, max_pixels: int) -> Instances:
    """Return the objects of an entry of `InstanceLists`. Raises BadImage."""
    return entry(max_pixels) if callable(entry) else entry
