"""Find identical files in several splits (they inflate metrics) or in several classes (their labels conflict)."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

from jaxdino.data.record import Split

MOST = 20_000  # files; larger data sets are not checked
PIECE = 4096  # bytes from the middle of a file, compared before whole files
THREADS = 8

Place = tuple[Split, int]


def duplicates(splits: Sequence[Split]) -> list[str]:
    """Return a warning line for each split with copies of training images, and one for images in several classes.

    Compares files byte by byte. Skips records that are not files, and data sets of more than `MOST` files.
    """
    labelled = any("label" in split.fields and len(set(split.labels.tolist())) > 1 for split in splits)
    places: dict[str, Place] = {}
    for split in splits:
        for index, record in enumerate(split.records):
            if isinstance(record, str):
                places[record] = split, index
    if len(places) > MOST or not (labelled or len(splits) > 1):
        return []
    groups = _identical(list(places))
    found = [[places[path] for path in group] for group in groups]
    return [*_across(splits, found), *(_contradicting(found) if labelled else [])]


def _identical(paths: list[str]) -> list[list[str]]:
    """Group identical files; each group has at least two."""
    groups = [paths]
    with ThreadPoolExecutor(THREADS) as pool:
        for key in (_size, _piece, _digest):
            groups = [same for group in groups for same in _grouped(group, key, pool)]
    return groups


def _grouped(paths: list[str], key: Callable[[str], Hashable], pool: ThreadPoolExecutor) -> list[list[str]]:
    groups = defaultdict(list)
    for path, value in zip(paths, pool.map(lambda path: _or_none(key, path), paths), strict=True):
        if value:
            groups[value].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _or_none(key: Callable[[str], Hashable], path: str) -> Hashable:
    try:
        return key(path)
    except OSError:  # the run itself reports unreadable files
        return None


def _size(path: str) -> int:
    return os.path.getsize(path)


def _piece(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - PIECE) // 2)
        return file.read(PIECE)


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _across(splits: Sequence[Split], found: Sequence[Sequence[Place]]) -> list[str]:
    lines = []
    for split in splits:
        pairs = [
            (place, original)
            for group in found
            for place in group
            if place[0] is split and split.name != "train"
            for original in [next((other for other in group if other[0].name == "train"), None)]
            if original
        ]
        if pairs:
            copy, original = pairs[0]
            lines.append(
                f"WARNING: {len(pairs)} of the {len(split)} images of {split.name} are copies of training images, such "
                f"as {_name(copy)} of {_name(original)}: the metrics of {split.name} will be too high; remove them "
                "from one of the two"
            )
    return lines


def _contradicting(found: Sequence[Sequence[Place]]) -> list[str]:
    groups = [group for group in found if len({_label(place) for place in group}) > 1]
    if not groups:
        return []
    first = groups[0][0]
    other = next(place for place in groups[0] if _label(place) != _label(first))
    return [
        f"WARNING: {len(groups)} image(s) are in several classes, such as {_name(first)} and {_name(other)}: labels "
        "that contradict each other; keep the right one"
    ]


def _label(place: Place) -> int:
    return int(place[0].labels[place[1]])


def _name(place: Place) -> str:
    return place[0].record_name(place[1])
