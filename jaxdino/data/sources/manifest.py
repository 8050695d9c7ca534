"""The source "manifest": images listed in a CSV or JSONL file, each with one class or several, or in text lists.

Columns (in JSONL: keys): `path`, relative to the file; then `label`, one class; or `labels`, classes joined by "|" (in
JSONL also a list); or one column for each class, with 0, 1, true, false or nothing; and, if wanted, `split`. If there
are several of these, or others, the setting `columns` says which hold the classes. Text lists: see `text_lists`.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.core.words import few
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source
from jaxdino.data.sources.cells import Coded, read_cells
from jaxdino.data.sources.listed_images import LABEL, LABELS, PLACES, Images, Place, normalised, source_of
from jaxdino.data.sources.listed_rows import Listed, open_list, refuse
from jaxdino.data.sources.text_lists import is_text_list, read_text_lists
from jaxdino.data.split_names import NONE, WORDS, named, split_of

PATH, SPLIT = "path", "split"
SEPARATOR = "|"
VALUES = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False, "none": False}
"""Values in the column of a class, in lower case; "none" is JSON's null."""


def single(cfg: DataConfig) -> Source:
    """List images with one class each, in the field "label": int32 (N,).

    Raises:
      UserError: see `several`; and for a manifest without the column `label`, or with a single class.
    """
    found = _read(cfg)
    if not found.one_each:
        how = f"--config.objective.name=multilabel, or give one class in a column {LABEL!r}"
        raise UserError(f"{found.file} lists several classes for an image: {how}")
    names = sorted({name for one in found.sets for name in one})
    if len(names) < 2:
        raise UserError(f"{found.file} has only one class, {names[0]!r}; a classifier needs two")
    return source_of(cfg, found, LABEL)


def several(cfg: DataConfig) -> Source:
    """List images with any number of classes, in the field "labels": float32 (N, C), 1 for each class of the image.

    Raises:
      UserError: with file and line, for wrong columns, values, splits and paths, images that are listed twice, classes
        that only val or test has, and files that are missing (see `listed_images.source_of`).
    """
    return source_of(cfg, _read(cfg), LABELS)


def either(cfg: DataConfig) -> Source:
    """List images with the field "label" if each has one class by name, else "labels". Raises as `several`."""
    found = _read(cfg)
    return source_of(cfg, found, LABEL if found.one_each else LABELS)


FIELDS: dict[str, Callable[[DataConfig], Source]] = {LABEL: single, LABELS: several}
"""Field -> the function that lists images with it."""


def _read(cfg: DataConfig) -> Images:
    """Read the lists. Raises UserError for wrong columns and values, and for a file without images."""
    if is_text_list(cfg.root):
        return read_text_lists(cfg)
    if cfg.images is not None:
        raise UserError(
            f"data.images={cfg.images} is for text lists; the paths of {cfg.root} are relative to its folder"
        )
    found = open_list(cfg.root)
    if found.columns and PATH not in found.columns:
        found.refuse(found.line, f"there is no column {PATH!r}; {did_you_mean(PATH, found.columns)}")
    classes = _chosen(found, cfg.columns) if cfg.columns else _only(found) if found.columns else ()
    split = (SPLIT,) * (SPLIT in found.columns)
    cells = read_cells(found, PATH, (*classes, *split))
    if not len(cells.paths):
        raise UserError(f"{found.file} lists no image: it has no line below the columns")
    others = tuple(name for name in found.columns if name not in (PATH, SPLIT, *classes))

    def place(row: int) -> tuple[Path, int]:
        return found.file, found.line_of(row)

    def label_of(row: int) -> Any:
        return cells.coded[classes[0]].values[cells.coded[classes[0]].numbers[row]]

    known = label_of if classes in ((LABEL,), (LABELS,)) else None
    paths = normalised(cells.paths, str(found.file.parent), place, "the manifest's folder", known)
    numbers = np.zeros(len(paths), np.int8)
    if split:
        numbers = splits_of_rows(found, cells.coded[SPLIT], cfg)
    sets, which = _sets([cells.coded[name] for name in classes], classes, place)
    notes = [f"the classes are in the column{'s'[: len(classes) > 1]} {few(classes, 8)}"]
    if others:
        notes.append(f"not read: the column{'s'[: len(others) > 1]} {few(others, 8)}")
    names = None if classes in ((LABEL,), (LABELS,)) else classes
    one_each = classes == (LABEL,)
    return Images(found.file, paths, sets, which, numbers, place, one_each, names, notes=tuple(notes))


def _chosen(found: Listed, columns: str) -> tuple[str, ...]:
    """Return the columns of the classes that the setting `columns` names. Raise UserError if they do not fit."""
    names = tuple(name.strip() for name in next(csv.reader([columns], skipinitialspace=True)))
    free = [name for name in found.columns if name not in (PATH, SPLIT)]
    for name in names:
        if name not in free or names.count(name) > 1:
            found.refuse(found.line, f"data.columns={columns}: {name!r} is not one of them; {did_you_mean(name, free)}")
        if name in (LABEL, LABELS) and len(names) > 1:
            found.refuse(found.line, f"data.columns={columns}: {name!r} holds the names of classes: give it alone")
    return names


def _only(found: Listed) -> tuple[str, ...]:
    """Return the columns of the classes if there is only one way to read them. Raise UserError otherwise."""
    kinds = [name for name in (LABEL, LABELS) if name in found.columns]
    others = [name for name in found.columns if name not in (PATH, SPLIT, LABEL, LABELS)]
    flag = "--config.data.columns="
    for name in others:
        if name.casefold() in (PATH, SPLIT, LABEL, LABELS):
            why = f"the column {name!r} is not called {name.casefold()!r}: rename it"
            found.refuse(found.line, f"{why}, or say which columns hold the classes, {flag}NAME,NAME")
    if not kinds and not others:
        found.refuse(found.line, f"there are no classes: add a column {LABEL!r} or {LABELS!r}, or one for each class")
    ways = [*kinds, *([",".join(others[:3]) + ",..." * (len(others) > 3)] if others else [])]
    if len(ways) > 1:
        why = f"several columns could hold the classes: {few([*kinds, *others], 8)}"
        found.refuse(found.line, f"{why}. Choose with {' or '.join(flag + way for way in ways)}")
    return tuple(kinds or others)


def splits_of_rows(found: Listed, column: Coded, cfg: DataConfig) -> np.ndarray:
    """Return the split of each row, see `Images.split`. The settings `*_split` come before usual names."""
    values = [str(value) for value in column.values]
    named(cfg.given_splits, list(dict.fromkeys(values)), f"the column {SPLIT!r} of {found.file}")
    table = np.zeros(len(values), np.int8)
    for number, value in enumerate(column.values):
        split = next((s for s, name in cfg.given_splits.items() if value == name and name not in (None, NONE)), None)
        if split is None:
            split = split_of(value) if isinstance(value, str) else None
            if split is None:
                ways = "or name it with --config.data.train_split=NAME"
                why = f"the split {value!r} is not known; {did_you_mean(str(value), WORDS)}, {ways}"
                found.refuse(found.line_of(column.first(number)), why)
            split = NONE if cfg.given_splits[split] is not None else split
        table[number] = PLACES.index(split)
    return table[column.numbers]


def _sets(columns: Sequence[Coded], names: tuple[str, ...], place: Place) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """Return the different sets of classes, and which of them each row has."""
    if names in ((LABEL,), (LABELS,)):
        (column,) = columns
        read = _label if names == (LABEL,) else _labels
        sets = []
        for number, value in enumerate(column.values):
            sets.append(read(value))
            if sets[-1] is None:
                how = f"the name of one class, or use the column {LABELS!r}" if read is _label else _JOINED
                refuse(*place(column.first(number)), f"{names[0]} is {value!r}: give {how}")
        return sets, column.numbers
    sets, which = [()], np.zeros(len(columns[0].numbers), np.int64)
    for name, column in zip(names, columns, strict=True):
        bits = np.zeros(len(column.values), bool)
        for number, value in enumerate(column.values):
            if str(value).lower() not in VALUES:
                why = f"the class {name!r} is {value!r}: give 0, 1, true, false or nothing"
                near = did_you_mean(name, (LABELS, LABEL, SPLIT))
                how = f"other columns have fixed names, {near}, or name the classes, --config.data.columns=NAME,NAME"
                refuse(*place(column.first(number)), f"{why}; if it is not a class, {how}")
            bits[number] = VALUES[str(value).lower()]
        different, which = np.unique(which * 2 + bits[column.numbers], return_inverse=True)
        sets = [(*sets[one // 2], *((name,) if one % 2 else ())) for one in different.tolist()]
    return sets, which.astype(np.int32)


_JOINED = f"names of classes, joined by {SEPARATOR!r}"


def _label(given: Any) -> tuple[str, ...] | None:
    return (given.strip(),) if isinstance(given, str) and given.strip() else None


def _labels(found: Any) -> tuple[str, ...] | None:
    """Return the classes of a row, each once; None for a value that is not names of classes."""
    given = found.split(SEPARATOR) if isinstance(found, str) and found.strip() else found or ()
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) and name.strip() for name in given):
        return None
    return tuple(dict.fromkeys(name.strip() for name in given))
