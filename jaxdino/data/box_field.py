"""The field "boxes": the boxes of the objects of an image, in a fixed number of slots."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from jaxdino.data.boxes import BoxLists
from jaxdino.data.crops import Box
from jaxdino.data.fields import Element, Row, Unmoved
from jaxdino.data.geometry import Geometry
from jaxdino.data.ranges import remark
from jaxdino.data.record import Split

STEP = 8  # the number of slots is a multiple of it


@dataclasses.dataclass(frozen=True)
class BoxField(Unmoved):
    """The boxes of an image, M slots (`slots`).

    Entries:
      boxes: float32 (M, 4), left, top, right, bottom in pixels of the view, cut off at its edges; 0 in an empty slot.
      box_labels: int32 (M,), the class.
      box_valid: float32 (M,), 1 for an object to find.
      box_ignored: float32 (M,), 1 for a box where the model may find something or nothing: a crowd, a difficult
        object of VOC, and one of which the view shows less than `min_visibility`.
      box_origin: float32 (4,), in evaluation: a place (x, y) of the view is at (a x + c, b y + d) of the image.

    Attributes:
      min_visibility: smallest share of a box's area that a view must show; of a rotated object, that of the box
        around it.
    """

    slots: int
    min_visibility: float = 0.1
    name: ClassVar[str] = "boxes"

    def read(self, element: Element, rng: np.random.Generator | None) -> np.ndarray:
        """Return float32 (n, 6), see `boxes.COLUMNS`."""
        return np.asarray(element[self.name])

    def wanted(self, value: np.ndarray, box: Box) -> bool:
        """Return whether the crop shows enough of any object; an image without objects may be cropped anywhere."""
        things = value[value[:, 5] == 0, :4]
        if not len(things):
            return True
        shown = np.clip(things, np.tile(box[:2], 2), np.tile(box[2:], 2))
        return bool((_areas(shown) >= self.min_visibility * _areas(things)).any())

    def move(self, value: np.ndarray, geometry: Geometry, element: Element, rng: np.random.Generator | None) -> Row:
        """Move the boxes with the image. Objects come first, then what is ignored; of too many, the largest stay."""
        whole = geometry.outlines(value[:, :4])
        shown = np.clip(whole, 0, np.tile(geometry.size[::-1], 2))
        area = _areas(shown)
        valid = (area > 0) & (area >= self.min_visibility * _areas(whole)) & (value[:, 5] == 0)
        rows = np.flatnonzero(area > 0)
        if len(rows) > self.slots:
            remark(f"{len(rows) - self.slots} of {len(rows)} boxes are left out: data.max_boxes is {self.slots}")
            rows = np.sort(rows[np.lexsort((-area[rows], ~valid[rows]))][: self.slots])
        rows = rows[np.argsort(~valid[rows], kind="stable")]
        found, count = self._empty(rng), len(rows)
        found["boxes"][:count], found["box_labels"][:count] = shown[rows], value[rows, 4]
        found["box_valid"][:count], found["box_ignored"][:count] = valid[rows], ~valid[rows]
        if rng is None:
            found["box_origin"][:] = geometry.origin
        return found

    def blank(self, element: Element, size: tuple[int, int], rng: np.random.Generator | None) -> Row:
        """Return empty slots."""
        return self._empty(rng)

    def _empty(self, rng: np.random.Generator | None) -> Row:
        found: Row = {"boxes": np.zeros((self.slots, 4), np.float32), "box_labels": np.zeros(self.slots, np.int32)}
        found |= {name: np.zeros(self.slots, np.float32) for name in ("box_valid", "box_ignored")}
        return found | ({"box_origin": np.zeros(4, np.float32)} if rng is None else {})


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def slots_of(splits: Mapping[str, Split], most: int | None) -> tuple[int, str]:
    """Return the number of slots for the boxes of an image, and a line that says why.

    Args:
      most: data.max_boxes; None: the largest number of boxes of an image, rounded up to a multiple of `STEP`.
    """
    counts = [lists.counts for split in splits.values() if isinstance(lists := split.fields["boxes"], BoxLists)]
    largest = int(max((found.max() for found in counts if len(found)), default=0))
    if most is None:
        slots = max(STEP, -(-largest // STEP) * STEP)
        return slots, f"boxes: {slots} slots an image, for at most {largest} boxes; data.max_boxes sets another number"
    over = sum(int((found > most).sum()) for found in counts)
    more = f"; {over} images have more: of those in a view, the largest stay" if over else ""
    return most, f"boxes: {most} slots an image (data.max_boxes), for at most {largest} boxes{more}"
