"""Choose the records of a split for pictures."""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


def spread_first(images: Sequence[Hashable], labels: Sequence[int], count: int) -> list[int]:
    """Return all records, ordered so that the first `count` are of different images, spread evenly over the split.

    For an image with several records, the one with the label shown least so far comes first. Later records replace
    records that cannot be read: first one of each other image, then the rest.

    Args:
      images: the image of each record. labels: the label of each record.
    """
    rows: dict[Hashable, list[int]] = {}
    for row, image in enumerate(images):
        rows.setdefault(image, []).append(row)
    groups, shown, order = list(rows.values()), Counter(), []
    first = dict.fromkeys(np.linspace(0, len(groups) - 1, min(count, len(groups))).astype(int).tolist())
    for place in first | dict.fromkeys(range(len(groups))):
        row = min(groups[place], key=lambda row: (shown[int(labels[row])], row))
        shown[int(labels[row])] += 1
        order.append(row)
    taken = set(order)
    return order + [row for row in range(len(images)) if row not in taken]
