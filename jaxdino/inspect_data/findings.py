"""All that a check found, by image number, and its form in JSON."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxdino.data.duplicates import identical
from jaxdino.data.stored import ImageFile
from jaxdino.inspect_data import boxes, classes, exposure
from jaxdino.inspect_data.boxes import BadBox
from jaxdino.inspect_data.calibration import Calibration
from jaxdino.inspect_data.classes import Counts
from jaxdino.inspect_data.groups import groups
from jaxdino.inspect_data.hashes import close_pairs
from jaxdino.inspect_data.images import Images
from jaxdino.inspect_data.limits import Limits
from jaxdino.inspect_data.pixels import TRUNCATED, Facts

Groups = list[list[int]]

CHECKS = {
    "unreadable": "images that cannot be read",
    "truncated": "of these, files that end too early",
    "remarks": "images that are not read as they are",
    "duplicates": "identical files",
    "label_conflicts": "identical files with different classes",
    "near_duplicates": "near-duplicates",
    "leaks": "the same or nearly the same image in several splits",
    "exact_leaks": "of these, identical files",
    "bad_boxes": "boxes that cannot be right",
    "bad_masks": "masks that do not fit their images",
    "dark": "too dark",
    "bright": "too bright",
    "low_contrast": "without contrast",
    "small": "small images",
    "suspects": "classes that may be wrong",
}
"""Key of a result that is a list of groups of images -> what it is."""


@dataclasses.dataclass(frozen=True)
class Findings:
    """The results of a check.

    Attributes:
      found: {check: groups of image numbers}; a single image is a group of one.
      reasons: {check: {image: why}} of checks that give a reason.
      images_of, boxes_of: counts by class and split.
      small_classes: {class: training images}. imbalance: the largest ratio of two classes.
      one_split_classes: {class: the only split that has it}.
      statistics: see `exposure.statistics`; {} if they were not asked for.
      searched_labels: whether a classifier looked for wrong classes.
      calibration: how `limits.cosine` was chosen; None if it was given, or no features were compared.
    """

    images: Images
    facts: Facts
    limits: Limits
    found: dict[str, Groups]
    reasons: dict[str, dict[int, str]]
    images_of: Counts
    boxes_of: Counts
    small_classes: dict[str, int]
    imbalance: float
    one_split_classes: dict[str, str]
    statistics: dict[str, Any]
    bad_boxes: list[BadBox]
    searched_labels: bool
    calibration: Calibration | None = None

    @property
    def any(self) -> bool:
        """Whether anything was found that should not be there."""
        unbalanced = self.imbalance > self.limits.max_class_imbalance
        return any(self.found.values()) or unbalanced or bool(self.small_classes or self.one_split_classes)


def find(
    images: Images,
    facts: Facts,
    limits: Limits,
    bad_masks: dict[int, str] | None = None,
    pairs: np.ndarray | None = None,
    suspects: dict[int, str] | None = None,
    statistics: bool = False,
    calibration: Calibration | None = None,
) -> Findings:
    """Look for everything in what is known about the images.

    Args:
      bad_masks: {image: why its mask does not fit}. pairs: int64 (P, 2), further near-duplicates, by features.
      suspects: {image: why its class may be wrong}; None if nothing looked for them.
      statistics: whether to compute the mean colours. calibration: how the cosine of `pairs` was chosen.
    """
    seen, wrong = exposure.exposure(facts, limits), boxes.bad_boxes(images, facts)
    same = _identical(images)
    near = near_duplicates(facts, limits, same, seen["low_contrast"], pairs)
    box_reasons: dict[int, str] = {}
    for bad in wrong:
        what = f"{bad.name} {_corners(bad)}: {bad.reason}".strip() if bad.corners else bad.reason
        box_reasons[bad.row] = f"{box_reasons[bad.row]}; {what}" if bad.row in box_reasons else what
    reasons = {
        "unreadable": facts.reasons,
        "truncated": {row: why for row, why in facts.reasons.items() if facts.rows["status"][row] == TRUNCATED},
        "remarks": facts.remarks,
        "bad_boxes": box_reasons,
        "bad_masks": bad_masks or {},
        "suspects": suspects or {},
    }
    counts = classes.image_counts(images)
    found: dict[str, Groups] = {name: [] for name in CHECKS}
    found |= {name: [[row] for row in sorted(rows)] for name, rows in reasons.items()}
    found["suspects"] = [[row] for row in reasons["suspects"]]  # ranked
    found |= {name: [[row] for row in rows] for name, rows in seen.items()}
    found |= {
        "duplicates": [group for group in same if len({images.path(row) for row in group}) > 1],
        "label_conflicts": classes.conflicts(images, same),
        "near_duplicates": near,
        "leaks": leaks(images, same, near),
        "exact_leaks": [group for group in same if _several_splits(images, group)],
    }
    return Findings(
        images=images,
        facts=facts,
        limits=limits,
        found=found,
        reasons=reasons,
        images_of=counts,
        boxes_of=classes.box_counts(images),
        small_classes=classes.small_classes(counts, limits),
        imbalance=classes.imbalance(counts),
        one_split_classes=classes.one_split_classes(counts),
        statistics=exposure.statistics(images, facts) if statistics else {},
        bad_boxes=wrong,
        searched_labels=suspects is not None,
        calibration=calibration,
    )


def _identical(images: Images) -> Groups:
    """Group identical files, or stored bytes, over all splits; arrays are in no group."""
    files = [row for row, record in enumerate(images.records) if isinstance(record, ImageFile)]
    return [[files[place] for place in group] for group in identical([images.records[row] for row in files])]


def near_duplicates(
    facts: Facts, limits: Limits, same: Groups, flat: Sequence[int], pairs: np.ndarray | None = None
) -> Groups:
    """Group images that look alike. Groups of identical files alone are left out: they are duplicates.

    Images without contrast have no hash that means anything, and are not compared.

    Args:
      same: groups of identical files. flat: images without contrast. pairs: near-duplicates by other means.
    """
    usable, original = facts.read.copy(), np.arange(len(facts.rows))
    usable[list(flat)] = False
    for group in same:
        usable[group[1:]] = False
        original[group] = group[0]
    rows = np.flatnonzero(usable)

    def edges() -> Iterator[np.ndarray]:
        if pairs is not None:
            yield original[pairs]
        if limits.distance >= 0:
            hashes, first, inverse = np.unique(facts.rows["hash"][rows], return_index=True, return_inverse=True)
            yield np.stack([rows[first[inverse]], rows], axis=1)
            for block in close_pairs(hashes, limits.distance):
                yield rows[first[block]]

    copies = {group[0]: group[1:] for group in same}
    return [
        sorted(row for one in group for row in (one, *copies.get(one, ()))) for group in groups(len(usable), edges())
    ]


def leaks(images: Images, same: Groups, near: Groups) -> Groups:
    """Return the groups of identical or similar images that are in several splits."""
    held = {row for group in near for row in group}
    alike = [*near, *(group for group in same if group[0] not in held)]
    return sorted(group for group in alike if _several_splits(images, group))


def _several_splits(images: Images, group: Sequence[int]) -> bool:
    return len(set(images.split[group].tolist())) > 1


def _corners(bad: BadBox) -> str:
    return f"({', '.join(f'{corner:g}' for corner in bad.corners)})"
