"""Convert one record to one row of a batch: an image, a blank row for a bad image, or padding."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdino.data.bad_images import BadImage
from jaxdino.data.ranges import remarks
from jaxdino.data.sources import Split

Batch = dict[str, np.ndarray]
PADDING = -1
REASON = "S240"  # dtype in which reasons and remarks are sent from a reading process to the main process


class Records:
    """A split as Grain reads it: {"record", "label", "index"}, padded to `length` records."""

    def __init__(self, split: Split, length: int):
        self.split, self.length = split, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= len(self.split):
            return {"record": None, "label": 0, "index": PADDING}
        return {"record": self.split.records[index], "label": self.split.labels[index], "index": index}


def read_row(
    element: dict[str, Any], shapes: Mapping[str, tuple[int, ...]], crop: Callable[[Any], dict[str, np.ndarray]]
) -> Batch:
    """Return the element of one batch row; a bad image is black, with weight 0 and its reason.

    Args:
      shapes: shapes of the images that `crop` returns, (..., H, W, C).
    """
    return filled_row(element, lambda: {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}, crop)


def filled_row(element: dict[str, Any], blank: Callable[[], Batch], read: Callable[[Any], Batch]) -> Batch:
    """Return a row as `read_row`: the result of `read` (which may change the label), or of `blank` if it fails."""
    found, weight, reason = None, 0, ""
    if element["record"] is not None:
        try:
            with remarks() as said:
                found, weight = read(element["record"]), 1
            reason = "; ".join(said)
        except BadImage as err:
            reason = str(err)
    return {
        "label": np.int32(element["label"]),
        **(blank() if found is None else found),
        "weight": np.float32(weight),
        "index": np.int64(element["index"]),
        "reason": np.array(reason.encode("ascii", "backslashreplace"), REASON),
    }
