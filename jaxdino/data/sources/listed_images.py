"""Images that files list with their classes: check them, divide them into splits, and make a source of them.

Nothing here is held as a Python object for each image, so that ten million of them fit in memory.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.file_names import is_path_below
from jaxdino.core.rules import did_you_mean
from jaxdino.data.config import DataConfig
from jaxdino.data.packed import Texts
from jaxdino.data.record import Source, Split
from jaxdino.data.sources.cells import OTHER
from jaxdino.data.sources.listed_rows import refuse
from jaxdino.data.split_names import NONE, SPLITS
from jaxdino.data.splitting import keeping_classes, origins, ratios_of, stratified

LABEL, LABELS = "label", "labels"
PLACES = (*SPLITS, NONE)
"""What the numbers of `Images.split` mean; "none" is left out."""
SHOWN = 5  # missing files named
FEW = 3  # classes named
LOOKED_UP = 1_000_000  # files; of more, only a share is looked up before a run
SAMPLE = 20_000  # files of that share
ODD = r"^\x00|^\s*$|^/|(^|/)\.{0,2}(/|$)|[^/]{64}|^.{900}"
"""Paths that need a closer look: not in their normal form, perhaps too long, or no path at all."""


Place = Callable[[int], tuple[Path, int]]
"""Function of a row that returns the file and the line that list it."""


class Images(NamedTuple):
    """N listed images.

    Attributes:
      file: the file, or the folder of files, that lists them. paths: their files, below the folder `paths.prefix`.
      sets: the different sets of classes that images have. which: int32 (N,), index into `sets` of each image.
      split: int8 (N,), index into `PLACES`.
      place: file and line of a row.
      one_each: whether each image has one class. names: all classes in their order; None sorts those that are used.
      called: {split: where it comes from}, see `Source.origins`. notes, ignored: see `Source`.
      source: the name of the source.
    """

    file: Path
    paths: Texts
    sets: Sequence[tuple[str, ...]]
    which: np.ndarray
    split: np.ndarray
    place: Place
    one_each: bool
    names: tuple[str, ...] | None = None
    called: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()
    source: str = "manifest"
    ignored: Mapping[str, int] = {}

    def refuse(self, row: int, why: str) -> NoReturn:
        """Raise UserError with the file and line of a row."""
        refuse(*self.place(row), why)

    def classes_of(self, rows: np.ndarray) -> frozenset[str]:
        """Return all classes of some rows."""
        return frozenset(name for one in np.unique(self.which[rows]) for name in self.sets[one])


def normalised(raw: Texts, base: str, place: Place, where: str, label_of: Callable[[int], Any] | None = None) -> Texts:
    """Return paths in their normal form below the folder `base`, each checked to stay below it and to be there once.

    Args:
      where: what `base` is, for messages. label_of: what a row gives as its label, for messages too.

    Raises:
      UserError: with file and line, for a path that leads out, is none, or is there twice.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    buffers = [None, pa.py_buffer(np.ascontiguousarray(raw.offsets)), pa.py_buffer(np.ascontiguousarray(raw.blob))]
    column = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(raw), buffers)
    odd = np.flatnonzero(pc.match_substring_regex(column, ODD).to_numpy(zero_copy_only=False))  # type: ignore[attr-defined]
    normal: dict[int, str] = {}
    for row in odd.tolist():
        text = raw[row]
        if not text.strip() or text.startswith(OTHER):
            refuse(*place(row), f"there is no path, but {_value(text)}")
        normal[row] = os.path.normpath(text)
        if not is_path_below(normal[row]) or not is_path_below(text):
            refuse(*place(row), _not_below(text, base, where))
    if any(raw[row] != text for row, text in normal.items()):
        raw, given = Texts.of(normal.get(row, text) for row, text in enumerate(raw)), raw
    else:
        given = raw
    if (twice := repeated(raw)) is not None:
        (file, line), (here, number) = map(place, twice)
        also = f"on line {line}" if file == here else f"in {file}:{line}"
        labels = [label_of(row) for row in twice] if label_of else []
        differ = f", there with {labels[0]!r} and here with {labels[1]!r}" if len(set(map(repr, labels))) > 1 else ""
        refuse(here, number, f"{given[twice[1]]!r} is {also} too{differ}: keep one line for each image")
    return Texts(raw.blob, raw.offsets, os.path.join(base, ""))


def _not_below(text: str, base: str, where: str) -> str:
    """Return what is wrong with a path that does not stay below the folder `base`, or is too long for a file system."""
    if not os.path.isabs(text):
        return f"{text!r} leads out of {where}, or is too long: put it above its images"
    inside = os.path.relpath(text, base)
    if is_path_below(inside):
        return f"{text!r} is an absolute path, of a file in {where}: write it from there, as {inside!r}"
    return (
        f"{text!r} is an absolute path, of a file outside of {where}: put it above its images, and write paths from it"
    )


def _value(text: str) -> str:
    """Return how a value that is no path was written."""
    return repr(text) if not text.startswith(OTHER) else text.removeprefix(OTHER).replace("null", "None")


def repeated(texts: Texts) -> tuple[int, int] | None:
    """Return two rows with the same text, the later one the first that repeats another; None if there are none."""
    hashes = np.fromiter(map(hash, texts.encoded()), np.int64, len(texts))
    ordered = np.sort(hashes)
    doubtful = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(doubtful):
        return None
    seen: dict[str, int] = {}
    for row in np.flatnonzero(np.isin(hashes, doubtful)).tolist():
        earlier = seen.setdefault(texts[row], row)
        if earlier != row:
            return earlier, row
    return None


def source_of(cfg: DataConfig, images: Images, field: str) -> Source:
    """Return the source of listed images, with a split for each of their splits and the field "label" or "labels".

    Splits that the lists lack get their share of train: stratified if each image has one class, else so that train
    keeps an image of every class.

    Raises:
      UserError: for more missing files than `max_missing`, images without any class, and classes that train lacks.
    """
    missing, looked = _missing(cfg, images)
    used = images.split != PLACES.index(NONE)
    left_out = int(np.count_nonzero(~used)) - int(np.count_nonzero(~used[missing]))
    if looked == len(images.paths):
        used[missing] = False
    if not images.classes_of(np.flatnonzero(used)):
        images.refuse(0, "neither this image nor any other has a class")
    names = images.names or tuple(sorted(images.classes_of(np.flatnonzero(used))))
    rows = {name: np.flatnonzero(used & (images.split == place)) for place, name in enumerate(SPLITS)}
    given = {name: found for name, found in rows.items() if len(found)}
    rows = _divided(cfg, images, given)
    _check_train(images, rows)
    table = _table(images.sets, names, field)
    splits = {
        name: Split(
            name,
            images.paths if len(found) == len(images.paths) else images.paths.chosen(found),
            {field: table[images.which[found]]},
            names,
            images.paths.prefix.rstrip(os.sep) or os.sep,
        )
        for name, found in rows.items()
    }
    dropped = {"missing file": len(missing) if looked == len(images.paths) else 0}
    counts = dropped | {"in a split that is left out": left_out}
    called = {name: images.called.get(name, name) for name in given}
    shares = origins(cfg, called, "stratified, " if images.one_each else "")
    notes = (*images.notes, *_missing_notes(images, missing, looked), *_notes(images, rows, names))
    return Source(images.source, names, splits, dict(+Counter({**images.ignored, **counts})), shares, notes)


def _missing(cfg: DataConfig, images: Images) -> tuple[np.ndarray, int]:
    """Return the rows without a file, and how many rows were looked up. Raise UserError if too many have none."""
    count = len(images.paths)
    rows = np.arange(count) if count <= LOOKED_UP else np.unique(np.linspace(0, count - 1, SAMPLE).astype(np.int64))
    paths: Iterable[str] = images.paths if len(rows) == count else (images.paths[row] for row in rows)
    missing = rows[np.fromiter((not os.path.isfile(path) for path in paths), bool, len(rows))]
    if len(missing) and cfg.on_bad == "stop":
        images.refuse(int(missing[0]), f"there is no file {images.paths[missing[0]]} (on_bad is 'stop')")
    if len(missing) == len(rows):
        how = f"nor any other of the {count} images: paths are relative to {images.paths.prefix}"
        images.refuse(int(missing[0]), f"there is no file {images.paths[missing[0]]}, {how}")
    if len(missing) > cfg.max_missing * len(rows):
        raise UserError(
            f"{_missing_notes(images, missing, len(rows))[0]}. That is more than data.max_missing={cfg.max_missing:g}: "
            "restore the files or correct the paths, or allow a larger share with --config.data.max_missing=0.5"
        )
    return missing, len(rows)


def _missing_notes(images: Images, missing: np.ndarray, looked: int) -> list[str]:
    """Return a line about missing files, if there are any, and one if not all were looked up."""
    lines = []
    if len(missing):
        below = images.paths.below()
        first = [(*images.place(int(row)), below[row]) for row in missing[:SHOWN]]
        shown = ", ".join(f"{file}:{line} {path}" for file, line, path in first) + ", ..." * (len(missing) > SHOWN)
        lines.append(f"{len(missing)} of {looked} files are missing: {shown}")
    if looked < len(images.paths):
        lines.append(
            f"{looked:,} of {len(images.paths):,} files were looked up: others that are missing are skipped and "
            "counted when they are read"
        )
    return lines


def _table(sets: Sequence[tuple[str, ...]], names: Sequence[str], field: str) -> np.ndarray:
    """Return the value of a field for each set of classes: int32 (S,) for "label", multi-hot float32 (S, C) else."""
    place = {name: label for label, name in enumerate(names)}
    if field == LABEL:
        return np.array([place.get(one[0], -1) for one in sets], np.int32)
    table = np.zeros((len(sets), len(names)), np.float32)
    for value, one in zip(table, sets, strict=True):
        value[[place[name] for name in one if name in place]] = 1
    return table


def _divided(cfg: DataConfig, images: Images, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the rows of all splits, after shares were taken from train. Raise UserError if train has too few."""
    ratios, train = ratios_of(cfg, rows), rows.get("train", np.empty(0, np.int64))
    if not ratios or not len(train):
        return rows
    keys = images.paths.below().chosen(train)
    if images.one_each:
        there = sorted(images.classes_of(train))
        try:
            chosen = stratified(
                keys, _table(images.sets, there, LABEL)[images.which[train]], ratios, cfg.split_seed, there
            )
        except UserError as err:
            raise UserError(f"{images.file}: {err}. A column 'split' names the split of each image") from None
    else:
        chosen = keeping_classes(keys, images.sets, images.which[train], ratios, cfg.split_seed)
    rows = rows | {split: train[places] for split, places in chosen.items()}
    return {split: rows[split] for split in SPLITS if len(rows.get(split, ()))}


def _check_train(images: Images, rows: Mapping[str, np.ndarray]) -> None:
    """Raise UserError for a class that only val or test has."""
    known = images.classes_of(rows.get("train", np.empty(0, np.int64)))
    for split, found in rows.items():
        new = [one for one in np.unique(images.which[found]) if not known.issuperset(images.sets[one])]
        if new:
            row = int(found[np.argmax(np.isin(images.which[found], new))])
            name = next(name for name in images.sets[images.which[row]] if name not in known)
            why = f"no image of train has the class {name!r} of this image of {split}"
            images.refuse(row, f"{why}; {did_you_mean(name, sorted(known))}")


def _notes(images: Images, rows: Mapping[str, np.ndarray], names: Sequence[str]) -> list[str]:
    """Return lines about images without a class, and classes that a split lacks."""
    bare = [number for number, one in enumerate(images.sets) if not one]
    empty = sum(int(np.isin(images.which[found], bare).sum()) for found in rows.values()) if bare else 0
    lines = [f"{empty} images have no class"] * bool(empty)
    for split, found in rows.items():
        lacks = sorted(set(names) - images.classes_of(found))
        if lacks:
            shown = ", ".join([*lacks[:FEW], *["..."] * (len(lacks) > FEW)])
            lines.append(f"{split} has no image of {len(lacks)} of {len(names)} classes: {shown}")
    return lines
