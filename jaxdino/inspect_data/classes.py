"""Counts per class and split, and what is wrong with them: small classes, imbalance, classes of one split alone."""

from collections.abc import Sequence

import numpy as np

from jaxdino.core.words import few
from jaxdino.data.record import Source
from jaxdino.inspect_data.images import Images
from jaxdino.inspect_data.limits import DEFAULT, Limits

SHOWN = 4  # classes named in a line
TRAIN = "train"

Counts = dict[str, dict[str, int]]
"""{class: {split: number}}."""


def image_counts(images: Images) -> Counts:
    """Return the number of images of each class in each split; an image of several classes counts in each."""
    return _counts(images, images.labels[:, 0], images.labels[:, 1])


def box_counts(images: Images) -> Counts:
    """Return the number of boxes of each class in each split; {} for images without boxes."""
    if images.boxes is None:
        return {}
    known = images.boxes.label >= 0
    return _counts(images, images.boxes.row[known], images.boxes.label[known])


def _counts(images: Images, rows: np.ndarray, labels: np.ndarray) -> Counts:
    names, splits = images.source.class_names, [split.name for split in images.splits]
    table = np.zeros((len(names), len(splits)), np.int64)
    np.add.at(table, (labels, images.split[rows]), 1)
    return {name: dict(zip(splits, row, strict=True)) for name, row in zip(names, table.tolist(), strict=True)}


def small_classes(counts: Counts, limits: Limits) -> dict[str, int]:
    """Return {class: training images} of classes with fewer than `min_samples_per_class`, smallest first."""
    sizes = {name: found.get(TRAIN, 0) for name, found in counts.items()}
    small = {name: size for name, size in sizes.items() if size < limits.min_samples_per_class}
    return dict(sorted(small.items(), key=lambda item: item[1]))


def imbalance(counts: Counts) -> float:
    """Return the largest ratio of the training images of two classes that have any; 1 for less than two classes."""
    sizes = [size for found in counts.values() if (size := found.get(TRAIN, 0))]
    return max(sizes) / min(sizes) if sizes else 1.0


def one_split_classes(counts: Counts) -> dict[str, str]:
    """Return {class: split} of the classes that have images in one of several splits only."""
    found = {}
    for name, sizes in counts.items():
        there = [split for split, size in sizes.items() if size]
        if len(there) == 1 and len(sizes) > 1:
            found[name] = there[0]
    return found


def conflicts(images: Images, same: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the groups of identical images that have different classes."""
    if not images.whole_labels:
        return []
    return [group for group in map(list, same) if len({images.classes_of(row) for row in group}) > 1]


def short(source: Source, limits: Limits = DEFAULT) -> list[str]:
    """Return lines about small and unequal classes, for the start of a run: from the labels alone."""
    images = Images(source)
    if not images.whole_labels:
        return []
    counts, lines = image_counts(images), []
    if small := small_classes(counts, limits):
        shown = few([f"{name} ({size})" for name, size in small.items()], SHOWN)
        have = "1 class has" if len(small) == 1 else f"{len(small)} classes have"
        lines.append(f"data: {have} fewer than {limits.min_samples_per_class} training images: {shown}")
    if (ratio := imbalance(counts)) > limits.max_class_imbalance:
        sizes = {name: found[TRAIN] for name, found in counts.items() if found.get(TRAIN)}
        least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        both = f"{sizes[most]} and {sizes[least]}"
        lines.append(f"data: {most} has {ratio:.3g} times as many training images as {least}: {both}")
    return lines
