"""Find identical files in several splits (they inflate metrics) or in several classes (their labels conflict)."""

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxdino.data.image_file import bytes_of
from jaxdino.data.record import Split
from jaxdino.data.stored import ImageFile, Stored

MOST = 20_000  # files; larger data sets are not checked before a run
PIECE = 4096  # bytes from the middle of a file, compared before whole files
CHUNK = 500  # files that one thread reads at a time
THREADS = 8

Place = tuple[Split, int]


def duplicates(splits: Sequence[Split]) -> list[str]:
    """Return a warning line for each split with copies of training images, and one for images in several classes.

    Compares files byte by byte. Skips records that are not files, and data sets of more than `MOST` files.
    """
    labelled = any("label" in split.fields and len(np.unique(split.labels)) > 1 for split in splits)
    if sum(map(len, splits)) > MOST or not (labelled or len(splits) > 1):
        return []
    places = [
        (split, index) for split in splits for index, record in enumerate(split.records) if isinstance(record, str)
    ]
    groups = identical([split.records[index] for split, index in places])
    found = [[places[row] for row in group] for group in groups]
    return [*_across(splits, found), *(_contradicting(found) if labelled else [])]


def identical(paths: Sequence[ImageFile]) -> list[list[int]]:
    """Group files with the same bytes; each group holds at least two indices into `paths`, ascending.

    Files are compared by size, then by `PIECE` bytes, then by the SHA-256 of the whole. Empty files, and files that
    cannot be read, are in no group.
    """
    rows, group = np.arange(len(paths)), np.zeros(len(paths), np.int64)
    with ThreadPoolExecutor(THREADS) as pool:
        for key in (_size, _piece, _digest):
            chunks = [rows[start : start + CHUNK].tolist() for start in range(0, len(rows), CHUNK)]
            read = functools.partial(_values, key, paths)
            values = np.array([value for chunk in pool.map(read, chunks) for value in chunk])
            rows, group = _shared(rows, group, values)
    order = np.lexsort((rows, group))
    edges = np.flatnonzero(np.diff(group[order])) + 1
    return sorted((part.tolist() for part in np.split(rows[order], edges) if part.size), key=lambda part: part[0])


def _shared(rows: np.ndarray, group: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divide the groups by value. Return the rows, and their groups, that share group and value with another row."""
    if not rows.size:
        return rows, group
    there = values != (b"" if values.dtype.kind == "S" else 0)
    rows, group = rows[there], group[there]
    names, codes = np.unique(values[there], return_inverse=True)
    _, new, counts = np.unique(group * len(names) + codes, return_inverse=True, return_counts=True)
    several = counts[new] > 1
    return rows[several], new[several]


def _values(key: Callable[[Any], int | bytes], paths: Sequence[ImageFile], rows: Sequence[int]) -> list[int | bytes]:
    return [_or_nothing(key, paths[row]) for row in rows]


def _or_nothing(key: Callable[[Any], int | bytes], path: ImageFile) -> int | bytes:
    try:
        return key(path)
    except Exception:  # reading the image reports it: a NUL in a name, errors of a library that stores images
        return 0 if key is _size else b""


def _size(path: ImageFile) -> int:
    return path.size if isinstance(path, Stored) else os.path.getsize(path)


def _piece(path: ImageFile) -> bytes:
    """Return a digest of bytes in the middle of a file, as a text: NumPy cuts zeros off the end of bytes."""
    with bytes_of(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - PIECE) // 2)
        return hashlib.sha256(file.read(PIECE)).hexdigest()[:16].encode()


def _digest(path: ImageFile) -> bytes:
    with bytes_of(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode()


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
