"""Which classes of objects are taken for which: a confusion matrix of boxes or masks."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SCORE, OVERLAP = 0.3, 0.5
"""Smallest score of an object that counts, and smallest overlap with the true object that it is."""
NOTHING = "(nothing)"

Entries = Sequence[Mapping[str, Any]]


def confusion(truth: Entries, found: Entries, classes: int, key: str) -> np.ndarray:
    """Count pairs of true and found objects, int64 (classes + 1, classes + 1): rows are true, columns found.

    An object found is the true one, of any class, that it overlaps most and that no object of a higher score has; the
    last row and column count those without a partner. Objects found in a crowd are not counted.

    Args:
      truth, found: annotations as COCO has them, with "score" of those found. key: "bbox" or "segmentation".
    """
    from pycocotools import mask as runs

    table = np.zeros((classes + 1, classes + 1), np.int64)
    images: dict[int, tuple[list, list]] = defaultdict(lambda: ([], []))
    for place, entries in enumerate((truth, found)):
        for one in entries:
            images[one["image_id"]][place].append(one)
    for true, given in images.values():
        seen = sorted((one for one in given if one["score"] >= SCORE), key=lambda one: -one["score"])
        left = {row for row, one in enumerate(true) if not one["iscrowd"]}
        shared = np.zeros((len(seen), len(true)))
        if seen and true:
            shared[:] = runs.iou(
                [one[key] for one in seen], [one[key] for one in true], [one["iscrowd"] for one in true]
            )
        for one, overlaps in zip(seen, shared, strict=True):
            best = max((row for row in left if overlaps[row] >= OVERLAP), key=lambda row: overlaps[row], default=None)
            if best is not None:
                left.remove(best)
                table[true[best]["category_id"], one["category_id"]] += 1
            elif not any(true[row]["iscrowd"] and overlaps[row] >= OVERLAP for row in range(len(true))):
                table[classes, one["category_id"]] += 1
        for row in left:
            table[true[row]["category_id"], classes] += 1
    return table


def write_confusion(file: Path, table: np.ndarray, names: Sequence[str]) -> None:
    """Write a confusion matrix as CSV, with a row for each true class and a column for each found one."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["true \\ found", *names, NOTHING])
        writer.writerows([name, *row] for name, row in zip((*names, NOTHING), table.tolist(), strict=True))
