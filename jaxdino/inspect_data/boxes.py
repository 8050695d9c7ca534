"""Boxes that cannot be right: without area, outside the image, of an unknown class, or not numbers."""

from typing import NamedTuple

import numpy as np

from jaxdino.data.boxes import BEYOND, FAULTS
from jaxdino.inspect_data.images import Images
from jaxdino.inspect_data.pixels import Facts


class BadBox(NamedTuple):
    """A box of an image that is wrong; without a box if none of the image's can be read.

    Attributes:
      row: the image. file: the file of the box. name: its class. corners: left, top, right, bottom in pixels.
    """

    row: int
    file: str
    reason: str
    name: str = ""
    corners: tuple[float, ...] = ()


def bad_boxes(images: Images, facts: Facts) -> list[BadBox]:
    """Return the boxes that are wrong, by image; a box with several faults once.

    See `Boxes.faults`; that a box is outside is not checked for images that cannot be read.
    """
    boxes = images.boxes
    if boxes is None:
        return []
    sizes = np.stack([np.where(facts.read, facts.rows[side], 0) for side in ("width", "height")], axis=1)
    found = [BadBox(row, boxes.files[row], why) for row, why in boxes.broken.items()]
    faults, boxes = boxes.faults(sizes), boxes.in_pixels(sizes)
    for box in np.flatnonzero(faults >= 0).tolist():
        row, label, reason = int(boxes.row[box]), int(boxes.label[box]), FAULTS[faults[box]]
        name = images.source.class_names[label] if label >= 0 else boxes.names.get(box, "")
        if reason == BEYOND:
            reason += f", {facts.rows['width'][row]} x {facts.rows['height'][row]}"
        found.append(BadBox(row, boxes.files[row], reason, name, tuple(boxes.corners[box].tolist())))
    return sorted(found, key=lambda bad: bad.row)
