"""The findings as JSON: lists of lists of paths, and counts."""

import dataclasses
from typing import Any

import numpy as np

from jaxdino.inspect_data.findings import Findings


def as_json(found: Findings) -> dict[str, Any]:
    """Return the findings: for each key of `findings.CHECKS` a list of lists of paths, and further keys.

    Paths are those that were read. Parts of a name that are not valid Unicode are single surrogates, as in Python.
    """
    images = found.images
    lists = {name: [[images.path(row) for row in group] for group in groups] for name, groups in found.found.items()}
    return {
        "name": images.source.name,
        "images": {split.name: len(split) for split in images.splits},
        "classes": found.images_of,
        "boxes": found.boxes_of,
        **lists,
        "small_classes": found.small_classes,
        "imbalance": found.imbalance,
        "unbalanced": found.imbalance > found.limits.max_class_imbalance,
        "one_split_classes": found.one_split_classes,
        "reasons": {
            name: {images.path(row): why for row, why in rows.items()} for name, rows in found.reasons.items() if rows
        },
        "bad_box_list": [
            {
                "image": images.path(bad.row),
                "annotation": bad.file,
                "class": bad.name,
                "corners": list(bad.corners),
                "reason": bad.reason,
            }
            for bad in found.bad_boxes
        ],
        "formats": kinds(found),
        "sizes": sizes(found),
        "statistics": found.statistics,
        "limits": dataclasses.asdict(found.limits),
        "calibration": found.calibration and dataclasses.asdict(found.calibration),
        "ignored": images.source.ignored,
        "notes": list(images.source.notes),
    }


def kinds(found: Findings) -> dict[str, int]:
    """Return {"JPEG RGB": number of images}, the most frequent first; images without a known header are left out."""
    facts = found.facts
    code = facts.rows["format"].astype(np.int64) * len(facts.kinds) + facts.rows["kind"]
    values, counts = np.unique(code, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    names = [f"{facts.formats[value // len(facts.kinds)]} {facts.kinds[value % len(facts.kinds)]}" for value in values]
    return {names[place]: int(counts[place]) for place in order if names[place].strip()}


def sizes(found: Findings) -> dict[str, dict[str, float]]:
    """Return {"width" and "height", in pixels, and "bytes": {"min", "median", "max"}} of the images that were read."""
    rows = found.facts.rows[found.facts.read]
    if not rows.size:
        return {}
    marks = {"min": np.min, "median": np.median, "max": np.max}
    return {
        side: {name: float(mark(rows[side])) for name, mark in marks.items()} for side in ("width", "height", "bytes")
    }
