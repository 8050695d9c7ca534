"""The source "manifest": images listed in a CSV or JSONL file, each with one class or several.

Columns (in JSONL: keys): `path`, relative to the file; then `label`, one class; or `labels`, classes joined by "|" (in
JSONL also a list); or one column for each class, with 0, 1, true, false or nothing; and, if wanted, `split`. If there
are several of these, or others, the setting `columns` says which hold the classes.
"""

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.file_names import is_path_below
from jaxdino.core.rules import did_you_mean
from jaxdino.core.words import few
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.sources.listed_rows import ListedRows, read_rows, refuse
from jaxdino.data.split_names import NONE, SPLITS, WORDS, named, split_of
from jaxdino.data.splitting import keeping_classes, origins, ratios_of, stratified

PATH, SPLIT, LABEL, LABELS = "path", "split", "label", "labels"
SEPARATOR = "|"
SHOWN = 3  # lines named in a note
VALUES = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False, "none": False}
"""Values in the column of a class, in lower case; "none" is JSON's null."""


class Entry(NamedTuple):
    """One image of a manifest: the line that lists it, its file, the names of its classes, and its split."""

    line: int
    path: str
    classes: tuple[str, ...]
    split: str


class Manifest(NamedTuple):
    """The images of a manifest.

    Attributes:
      classes: the columns that hold the classes: ("label",), ("labels",), or the classes themselves.
      others: columns that are not read.
    """

    file: Path
    classes: tuple[str, ...]
    others: tuple[str, ...]
    images: list[Entry]

    @property
    def one_each(self) -> bool:
        """Whether each image has one class, by its name."""
        return self.classes == (LABEL,)


Rows = dict[str, list[Entry]]  # the images of each split


def single(cfg: DataConfig) -> Source:
    """List images with one class each, in the field "label": int32 (N,).

    Raises:
      UserError: see `several`; and for a manifest without the column `label`, or with a single class.
    """
    found = _read(cfg)
    if not found.one_each:
        how = f"--config.objective.name=multilabel, or give one class in a column {LABEL!r}"
        raise UserError(f"{found.file} lists several classes for an image: {how}")
    names = sorted({row.classes[0] for row in found.images})
    if len(names) < 2:
        raise UserError(f"{found.file} has only one class, {names[0]!r}; a classifier needs two")
    return _source(cfg, found, LABEL)


def several(cfg: DataConfig) -> Source:
    """List images with any number of classes, in the field "labels": float32 (N, C), 1 for each class of the image.

    Splits that the file does not name get their share of train: stratified if each image has one class, else so that
    train keeps an image of every class.

    Raises:
      UserError: with file and line, for wrong columns, values, splits and paths, images that are listed twice, classes
        that only val or test has, and files that are all missing.
    """
    return _source(cfg, _read(cfg), LABELS)


def either(cfg: DataConfig) -> Source:
    """List images with the field "label" if each has one class by name, else "labels". Raises as `several`."""
    found = _read(cfg)
    return _source(cfg, found, LABEL if found.one_each else LABELS)


FIELDS = {LABEL: single, LABELS: several}
"""Field -> the function that lists images with it."""


def _source(cfg: DataConfig, given: Manifest, field: str) -> Source:
    file, every = given.file, given.images
    exists = {row.path: os.path.isfile(row.path) for row in every}
    missing = [row for row in every if not exists[row.path]]
    if missing and cfg.on_bad == "stop":
        refuse(file, missing[0].line, f"there is no file {missing[0].path} (on_bad is 'stop')")
    if len(missing) == len(every):
        how = f"nor any other of the {len(every)} images: paths are relative to the manifest's folder"
        refuse(file, every[0].line, f"there is no file {every[0].path}, {how}")
    used = [row for row in every if exists[row.path] and row.split != NONE]
    names = given.classes
    if names in ((LABEL,), (LABELS,)):
        names = tuple(sorted({name for row in used for name in row.classes}))
    if not any(row.classes for row in used):
        refuse(file, every[0].line, "neither this image nor any other has a class")
    rows = {split: [row for row in used if row.split == split] for split in SPLITS}
    rows = _divided(cfg, given, {split: found for split, found in rows.items() if found})
    _check_train(file, rows)
    splits = {
        split: Split(split, [row.path for row in found], {field: _values(found, names, field)}, names, str(file.parent))
        for split, found in rows.items()
    }
    counts = {"missing file": len(missing), "in a split that is left out": len(every) - len(missing) - len(used)}
    shares = origins(cfg, {row.split: row.split for row in used}, "stratified, " if given.one_each else "")
    return Source("manifest", names, splits, dict(+Counter(counts)), shares, _notes(given, missing, rows, names))


def _values(rows: Sequence[Entry], names: Sequence[str], field: str) -> np.ndarray:
    """Return the values of a field: int32 (N,) for "label", multi-hot float32 (N, C) for "labels"."""
    place = {name: label for label, name in enumerate(names)}
    if field == LABEL:
        return np.array([place[row.classes[0]] for row in rows], np.int32)
    values = np.zeros((len(rows), len(names)), np.float32)
    for value, row in zip(values, rows, strict=True):
        value[[place[name] for name in row.classes]] = 1
    return values


def _divided(cfg: DataConfig, given: Manifest, rows: Rows) -> Rows:
    """Return the rows of all splits, after shares were taken from train. Raise UserError if train has too few."""
    ratios, train = ratios_of(cfg, rows), rows.get("train", [])
    if not ratios or not train:
        return rows
    keys = [os.path.relpath(row.path, given.file.parent) for row in train]
    if given.one_each:
        there, labels = np.unique([row.classes[0] for row in train], return_inverse=True)
        try:
            chosen = stratified(keys, labels, ratios, cfg.split_seed, there.tolist())
        except UserError as err:
            raise UserError(f"{given.file}: {err}. A column {SPLIT!r} names the split of each image") from None
    else:
        chosen = keeping_classes(keys, [row.classes for row in train], ratios, cfg.split_seed)
    rows = rows | {split: [train[place] for place in places] for split, places in chosen.items()}
    return {split: rows[split] for split in SPLITS if rows.get(split)}


def _check_train(file: Path, rows: Rows) -> None:
    """Raise UserError for a class that only val or test has."""
    known = {name for row in rows.get("train", ()) for name in row.classes}
    for split, row in ((split, row) for split, found in rows.items() for row in found):
        for name in set(row.classes) - known:
            why = f"no image of train has the class {name!r} of this image of {split}"
            refuse(file, row.line, f"{why}; {did_you_mean(name, sorted(known))}")


def _notes(given: Manifest, missing: Sequence[Entry], rows: Rows, names: Sequence[str]) -> tuple[str, ...]:
    """Return lines about columns, missing files, images without a class, and classes that a split lacks."""
    file, lines = given.file, [f"the classes are in the column{'s'[: len(given.classes) > 1]} {few(given.classes, 8)}"]
    if given.others:
        lines.append(f"not read: the column{'s'[: len(given.others) > 1]} {few(given.others, 8)}")
    if missing:
        first = ", ".join(f"{file}:{row.line} {os.path.relpath(row.path, file.parent)}" for row in missing[:SHOWN])
        lines.append(f"{len(missing)} files are missing: {first}{', ...' * (len(missing) > SHOWN)}")
    if empty := sum(not row.classes for split in rows.values() for row in split):
        lines.append(f"{empty} images have no class")
    for split, entries in rows.items():
        lacks = sorted(set(names) - {name for row in entries for name in row.classes})
        if lacks:
            shown = ", ".join([*lacks[:SHOWN], *["..."] * (len(lacks) > SHOWN)])
            lines.append(f"{split} has no image of {len(lacks)} of {len(names)} classes: {shown}")
    return tuple(lines)


def _read(cfg: DataConfig) -> Manifest:
    """Read the manifest. Raises UserError for wrong columns and values, and for a file without images."""
    found = read_rows(cfg.root)
    if found.columns and PATH not in found.columns:
        found.refuse(found.line, f"there is no column {PATH!r}; {did_you_mean(PATH, found.columns)}")
    classes = _chosen(found, cfg.columns) if cfg.columns else _only(found) if found.columns else ()
    if not found.rows:
        raise UserError(f"{found.file} lists no image: it has no line below the columns")
    others = tuple(name for name in found.columns if name not in (PATH, SPLIT, *classes))
    where = f"the column {SPLIT!r} of {found.file}"
    named(cfg.given_splits, [*dict.fromkeys(str(row.get(SPLIT)) for _, row in found.rows)], where)
    every: dict[str, Entry] = {}
    for line, row in found.rows:
        path = _path(found.file, line, row.get(PATH))
        if path in every:
            found.refuse(line, f"{row[PATH]!r} is on line {every[path].line} too: keep one line for each image")
        split = _split(found.file, line, row.get(SPLIT), cfg) if SPLIT in found.columns else "train"
        every[path] = Entry(line, path, _classes(found.file, line, row, classes), split)
    return Manifest(found.file, classes, others, list(every.values()))


def _chosen(found: ListedRows, columns: str) -> tuple[str, ...]:
    """Return the columns of the classes that the setting `columns` names. Raise UserError if they do not fit."""
    names = tuple(name.strip() for name in next(csv.reader([columns], skipinitialspace=True)))
    free = [name for name in found.columns if name not in (PATH, SPLIT)]
    for name in names:
        if name not in free or names.count(name) > 1:
            found.refuse(found.line, f"data.columns={columns}: {name!r} is not one of them; {did_you_mean(name, free)}")
        if name in (LABEL, LABELS) and len(names) > 1:
            found.refuse(found.line, f"data.columns={columns}: {name!r} holds the names of classes: give it alone")
    return names


def _only(found: ListedRows) -> tuple[str, ...]:
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


def _path(file: Path, line: int, given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        refuse(file, line, f"there is no path, but {given!r}")
    path = os.path.normpath(file.parent / given)
    if not is_path_below(os.path.relpath(path, file.parent)):
        refuse(file, line, f"{given!r} leads out of the manifest's folder, or is too long: put it above its images")
    return path


def _split(file: Path, line: int, given: Any, cfg: DataConfig) -> str:
    """Return the split of a row, "none" if it is left out. The settings `*_split` come before usual names."""
    for split, value in cfg.given_splits.items():
        if given == value and value not in (None, NONE):
            return split
    split = split_of(given) if isinstance(given, str) else None
    if split is None:
        ways = "or name it with --config.data.train_split=NAME"
        refuse(file, line, f"the split {given!r} is not known; {did_you_mean(str(given), WORDS)}, {ways}")
    return NONE if cfg.given_splits[split] is not None else split


def _classes(file: Path, line: int, row: Mapping[str, Any], columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes of a row, each once."""
    if columns == (LABEL,):
        found = row.get(LABEL)
        if not isinstance(found, str) or not found.strip():
            refuse(file, line, f"{LABEL} is {found!r}: give the name of one class, or use the column {LABELS!r}")
        return (found.strip(),)
    if columns == (LABELS,):
        found = row.get(LABELS)
        given = found.split(SEPARATOR) if isinstance(found, str) and found.strip() else found or ()
        if not isinstance(given, list | tuple) or not all(isinstance(name, str) and name.strip() for name in given):
            refuse(file, line, f"{LABELS} is {found!r}: give names of classes, joined by {SEPARATOR!r}")
        return tuple(dict.fromkeys(name.strip() for name in given))
    for name in columns:
        if str(row.get(name)).lower() not in VALUES:
            why = f"the class {name!r} is {row[name]!r}: give 0, 1, true, false or nothing"
            near = did_you_mean(name, (LABELS, LABEL, SPLIT))
            how = f"other columns have fixed names, {near}, or name the classes, --config.data.columns=NAME,NAME"
            refuse(file, line, f"{why}; if it is not a class, {how}")
    return tuple(name for name in columns if VALUES[str(row.get(name)).lower()])
