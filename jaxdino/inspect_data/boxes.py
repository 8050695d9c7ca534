"""Boxes that cannot be right: without area, outside the image, of an unknown class, or not numbers."""

from typing import NamedTuple

import numpy as np

from jaxdino.inspect_data.images import Images
from jaxdino.inspect_data.pixels import Facts

MARGIN = 1.0  # pixels that a box may reach out of its image: VOC counts pixels from 1


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

    A box is outside if a corner is more than `MARGIN` pixels outside the upright image; that is not checked for images
    that cannot be read.
    """
    boxes = images.boxes
    if boxes is None:
        return []
    found = [BadBox(row, boxes.files[row], why) for row, why in boxes.broken.items()]
    left, top, right, bottom = boxes.corners.T
    width, height = (
        np.where(facts.read, facts.rows[side], 0)[boxes.row].astype(np.float64) for side in ("width", "height")
    )
    with np.errstate(invalid="ignore"):
        empty = (right <= left) | (bottom <= top)
        beyond = (left < -MARGIN) | (top < -MARGIN) | (right > width + MARGIN) | (bottom > height + MARGIN)
    faults = {
        "its corners are not four numbers": np.isnan(boxes.corners).any(axis=1),
        "it has no area": empty & ((right == left) | (bottom == top)),
        "its right or bottom side comes before the left or top one": empty,
        "it reaches out of the image": beyond & (width > 0),
        "its class is not known": boxes.label < 0,
    }
    first = np.full(len(boxes.row), len(faults))
    for number, wrong in reversed(list(enumerate(faults.values()))):
        first[wrong] = number
    for box in np.flatnonzero(first < len(faults)).tolist():
        row, label = int(boxes.row[box]), int(boxes.label[box])
        name = images.source.class_names[label] if label >= 0 else boxes.names.get(box, "")
        reason = list(faults)[first[box]]
        if "image" in reason:
            reason += f", {facts.rows['width'][row]} x {facts.rows['height'][row]}"
        found.append(BadBox(row, boxes.files[row], reason, name, tuple(boxes.corners[box].tolist())))
    return sorted(found, key=lambda bad: bad.row)
