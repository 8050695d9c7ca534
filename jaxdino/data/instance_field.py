"""The field "instances": the mask and the class of each object of an image, in a fixed number of slots."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from jaxdino.data.crops import Box
from jaxdino.data.fields import Element, Row, Unmoved
from jaxdino.data.geometry import Geometry
from jaxdino.data.instances import IGNORED, NOTHING, InstanceLists, Instances, read
from jaxdino.data.ranges import remark
from jaxdino.data.record import Split

STEP = 8  # the number of slots is a multiple of it


@dataclasses.dataclass(frozen=True)
class InstanceField(Unmoved):
    """The objects of an image, M slots (`slots`).

    Entries:
      instances: int32 (H, W), the slot of the object at each pixel plus 1; 0 where there is none, -1 where ignored: in
        crowds, outside of the image, and in objects of which the view shows less than `min_visibility`.
      instance_labels: int32 (M,), the class.
      instance_valid: float32 (M,), 1 for an object, 0 for an empty slot.
      instance_origin: float32 (4,), in evaluation: a place (x, y) of the view is at (a x + c, b y + d) of the image.

    Attributes:
      min_visibility: smallest share of the area of the box around an object that a view must show.
    """

    slots: int
    max_pixels: int
    min_visibility: float = 0.1
    name: ClassVar[str] = "instances"

    def read(self, element: Element, rng: np.random.Generator | None) -> Instances:
        """Return the objects of the whole image. Raises BadImage."""
        return read(element[self.name], self.max_pixels)

    def size(self, value: Instances) -> tuple[int, int]:
        """Return the size of the map."""
        return value.ids.shape[1], value.ids.shape[0]

    def wanted(self, value: Instances, box: Box) -> bool:
        """Return whether the crop shows enough of any object; an image without objects may be cropped anywhere."""
        things = value.boxes[~value.crowd]
        if not len(things):
            return True
        shown = np.clip(things, np.tile(box[:2], 2), np.tile(box[2:], 2))
        return bool((_areas(shown) >= self.min_visibility * _areas(things)).any())

    def move(self, value: Instances, geometry: Geometry, element: Element, rng: np.random.Generator | None) -> Row:
        """Move the map with the image, by the nearest pixel. Of too many objects, the largest stay."""
        ids = geometry.plane(value.ids, IGNORED)
        count = len(value.labels)
        pixels = np.bincount(ids[ids > 0], minlength=count + 1)[1:]
        whole = geometry.outlines(value.boxes)
        shown = np.clip(whole, 0, np.tile(geometry.size[::-1], 2))
        valid = (pixels > 0) & ~value.crowd & (_areas(shown) >= self.min_visibility * _areas(whole))
        rows = np.flatnonzero(valid)
        if len(rows) > self.slots:
            remark(f"{len(rows) - self.slots} of {len(rows)} objects are left out: there are {self.slots} slots")
            rows = np.sort(rows[np.argsort(-pixels[rows], kind="stable")][: self.slots])
        table = np.full(count + 2, IGNORED, np.int32)  # of -1, 0, 1 ... n, at -1 as the last entry
        table[NOTHING] = NOTHING
        table[rows + 1] = np.arange(1, len(rows) + 1)
        found = self._empty(geometry.size, rng)
        found["instances"][:] = table[ids]
        found["instance_labels"][: len(rows)], found["instance_valid"][: len(rows)] = value.labels[rows], 1
        if rng is None:
            found["instance_origin"][:] = geometry.origin
        return found

    def blank(self, element: Element, size: tuple[int, int], rng: np.random.Generator | None) -> Row:
        """Return empty slots, and a map that is ignored everywhere."""
        return self._empty(size, rng)

    def _empty(self, size: tuple[int, int], rng: np.random.Generator | None) -> Row:
        found: Row = {
            "instances": np.full(size, IGNORED, np.int32),
            "instance_labels": np.zeros(self.slots, np.int32),
            "instance_valid": np.zeros(self.slots, np.float32),
        }
        return found | ({"instance_origin": np.zeros(4, np.float32)} if rng is None else {})


def _areas(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)


def slots_of(splits: Mapping[str, Split], most: int | None) -> tuple[int, str]:
    """Return the number of slots for the objects of an image, and a line that says why.

    Args:
      most: data.max_boxes; None: the largest number of objects of an image, rounded up to a multiple of `STEP`.
    """
    counts = [
        lists.counts for split in splits.values() if isinstance(lists := split.fields["instances"], InstanceLists)
    ]
    largest = int(max((found.max() for found in counts if len(found)), default=0))
    if most is None:
        slots = max(STEP, -(-largest // STEP) * STEP)
        return slots, f"objects: {slots} slots an image, for at most {largest}; data.max_boxes sets another number"
    over = sum(int((found > most).sum()) for found in counts)
    more = f"; {over} images have more: of those in a view, the largest stay" if over else ""
    return most, f"objects: {most} slots an image (data.max_boxes), for at most {largest}{more}"
