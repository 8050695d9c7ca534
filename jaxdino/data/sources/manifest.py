"""The source "manifest": images listed in a CSV or JSONL file, each with one class or several.

Columns (in JSONL: keys): `path`, relative to the file; then `label`, one class; or `labels`, classes joined by "|" (in
JSONL also a list); or one column for each class, with 0, 1, true, false or nothing; and, if wanted, `split`.
"""

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, parse_json
from jaxdino.core.rules import did_you_mean
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.split_names import NONE, SPLITS, WORDS, named, near_names, split_of
from jaxdino.data.splitting import origins, ratios_of, stratified

PATH, SPLIT, LABEL, LABELS = "path", "split", "label", "labels"
SEPARATOR = "|"
SHOWN = 3  # lines named in a note
VALUES = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False, "": False, "none": False}
"""Values in the column of a class, in lower case; "none" is JSON's null."""

Row = tuple[int, Mapping[str, Any]]  # the number of a line, and its values by column


class Entry(NamedTuple):
    """One image of a manifest: the line that lists it, its file, the names of its classes, and its split."""

    line: int
    path: str
    classes: tuple[str, ...]
    split: str


Rows = dict[str, list[Entry]]  # the images of each split


def single(cfg: DataConfig) -> Source:
    """List images with one class each, in the field "label": int32 (N,).

    Raises:
      UserError: see `several`; and for a manifest without the column `label`, or with a single class.
    """
    file, kind, _, every = _read(cfg)
    if kind != LABEL:
        how = f"--config.objective.name=multilabel, or give one class in a column {LABEL!r}"
        raise UserError(f"{file} lists several classes for an image: {how}")
    found = sorted({row.classes[0] for row in every})
    if len(found) < 2:
        raise UserError(f"{file} has only one class, {found[0]!r}; a classifier needs two")
    return _source(cfg, file, kind, (), every, LABEL)


def several(cfg: DataConfig) -> Source:
    """List images with any number of classes, in the field "labels": float32 (N, C), 1 for each class of the image.

    Splits that the file does not name get their share of train: stratified if each image has one class, else so that
    train keeps an image of every class.

    Raises:
      UserError: with file and line, for wrong columns, values, splits and paths, images that are listed twice, classes
        that only val or test has, and files that are all missing.
    """
    return _source(cfg, *_read(cfg), LABELS)


def _source(cfg: DataConfig, file: Path, kind: str, names: tuple[str, ...], every: list[Entry], field: str) -> Source:
    exists = {row.path: os.path.isfile(row.path) for row in every}
    missing = [row for row in every if not exists[row.path]]
    if missing and cfg.on_bad == "stop":
        _refuse(file, missing[0].line, f"there is no file {missing[0].path} (on_bad is 'stop')")
    if len(missing) == len(every):
        how = f"nor any other of the {len(every)} images: paths are relative to the manifest's folder"
        _refuse(file, every[0].line, f"there is no file {every[0].path}, {how}")
    used = [row for row in every if exists[row.path] and row.split != NONE]
    names = names or tuple(sorted({name for row in used for name in row.classes}))
    if not any(row.classes for row in used):
        _refuse(file, every[0].line, "neither this image nor any other has a class")
    rows = {split: [row for row in used if row.split == split] for split in SPLITS}
    rows = _divided(cfg, file, {split: found for split, found in rows.items() if found}, kind)
    _check_train(file, rows)
    place = {name: label for label, name in enumerate(names)}
    splits = {}
    for split, found in rows.items():
        if field == LABEL:
            values = np.array([place[entry.classes[0]] for entry in found], np.int32)
        else:
            values = np.zeros((len(found), len(names)), np.float32)
            for row, entry in zip(values, found, strict=True):
                row[[place[name] for name in entry.classes]] = 1
        splits[split] = Split(split, [row.path for row in found], {field: values}, names, str(file.parent))
    counts = {"missing file": len(missing), "in a split that is left out": len(every) - len(missing) - len(used)}
    ignored = dict(+Counter(counts))
    shares = origins(cfg, {row.split: row.split for row in used}, "stratified, " if kind == LABEL else "")
    return Source("manifest", names, splits, ignored, shares, _notes(file, missing, rows, names))


def _divided(cfg: DataConfig, file: Path, rows: Rows, kind: str) -> Rows:
    """Return the rows of all splits, after shares were taken from train. Raise UserError if train has too few."""
    ratios, train = ratios_of(cfg, rows), rows.get("train", [])
    if not ratios or not train:
        return rows
    keys = [os.path.relpath(row.path, file.parent) for row in train]
    if kind == LABEL:
        there, labels = np.unique([row.classes[0] for row in train], return_inverse=True)
        try:
            chosen = stratified(keys, labels, ratios, cfg.split_seed, there.tolist())
        except UserError as err:
            raise UserError(f"{file}: {err}. A column {SPLIT!r} names the split of each image") from None
    else:
        chosen = _shares(keys, train, ratios, cfg.split_seed)
    rows = rows | {split: [train[place] for place in places] for split, places in chosen.items()}
    return {split: rows[split] for split in SPLITS if rows.get(split)}


def _shares(keys: Sequence[str], rows: Sequence[Entry], ratios: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Split off shares in the order of a hash, as `stratified`; train keeps the last image that it has of a class."""
    order = sorted(range(len(keys)), key=lambda i: hashlib.sha256(f"{seed}/".encode() + os.fsencode(keys[i])).digest())
    left = Counter(name for row in rows for name in row.classes)
    chosen: dict[str, list[int]] = {split: [] for split in (*ratios, "train")}
    sizes = {split: max(1, round(ratio * len(keys))) for split, ratio in ratios.items()}
    for place in order:
        open_one = next((split for split, size in sizes.items() if len(chosen[split]) < size), "train")
        split = open_one if all(left[name] > 1 for name in rows[place].classes) else "train"
        chosen[split].append(place)
        left.subtract(rows[place].classes if split != "train" else ())
    return {split: sorted(places) for split, places in chosen.items()}


def _check_train(file: Path, rows: Rows) -> None:
    """Raise UserError for a class that only val or test has."""
    known = {name for row in rows.get("train", ()) for name in row.classes}
    for split, row in ((split, row) for split, found in rows.items() for row in found):
        for name in set(row.classes) - known:
            why = f"no image of train has the class {name!r} of this image of {split}"
            _refuse(file, row.line, f"{why}; {did_you_mean(name, sorted(known))}")


def _notes(file: Path, missing: Sequence[Entry], rows: Rows, names: Sequence[str]) -> tuple[str, ...]:
    """Return lines about missing files, images without a class, and classes that a split lacks."""
    lines = []
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


def _read(cfg: DataConfig) -> tuple[Path, str, tuple[str, ...], list[Entry]]:
    """Return the file, the column of the classes (see `_kind`), the names of columns that are classes, all images."""
    file = _existing(cfg.root)
    columns, rows = (_csv if file.suffix.lower() == ".csv" else _jsonl)(file)
    kind = _kind(file, columns)
    named(cfg.given_splits, [*dict.fromkeys(str(row.get(SPLIT)) for _, row in rows)], f"the column {SPLIT!r} of {file}")
    names = tuple(name for name in columns if name not in (PATH, SPLIT)) if not kind else ()
    every: dict[str, Entry] = {}
    for line, row in rows:
        path = _path(file, line, row.get(PATH))
        if path in every:
            _refuse(file, line, f"{row[PATH]!r} is on line {every[path].line} too: keep one line for each image")
        split = _split(file, line, row.get(SPLIT), cfg) if SPLIT in columns else "train"
        every[path] = Entry(line, path, _classes(file, line, row, kind, names), split)
    if not every:
        raise UserError(f"{file} lists no image: it has no line below the columns")
    return file, kind, names, list(every.values())


def _existing(root: str | None) -> Path:
    """Return the manifest. Raise UserError if it is not given, is not a file, or is of another kind."""
    file, kinds = Path(os.path.abspath(os.path.expanduser(root or "."))), (".csv", ".jsonl")
    if root and file.is_file() and file.suffix.lower() in kinds:
        return file
    folder = file if file.is_dir() else file.parent
    near = near_names(file.name, sorted(path.name for path in folder.glob("*") if path.suffix.lower() in kinds))
    found = f"; found in {folder}: {near}" if near else ""
    raise UserError(
        f"data.root={root} is not a manifest: give a file, --config.data.root=FILE.csv or FILE.jsonl{found}"
    )


def _text(file: Path) -> str:
    """Return the text of a file, without a byte order mark."""
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as err:
        raise UserError(f"{file} is not UTF-8 ({err.reason} at byte {err.start}): save it as UTF-8") from None


def _csv(file: Path) -> tuple[tuple[str, ...], list[Row]]:
    """Return the columns and the rows of a CSV file; blank lines do not count. A row's line is its first one."""
    reader, lines, first = csv.reader(io.StringIO(_text(file), newline=""), strict=True, skipinitialspace=True), [], 1
    try:
        for values in reader:
            if any(value.strip() for value in values):
                lines.append((first, [value.strip() for value in values]))
            first = reader.line_num + 1
    except csv.Error as err:
        _refuse(file, first, str(err))
    line, columns = lines[0] if lines else (1, [PATH, LABELS])
    for name in columns:
        if not name or columns.count(name) > 1:
            _refuse(file, line, f"the column {name!r} is there twice" if name else "a column has no name")
    if len(columns) == 1 and (other := next((mark for mark in ";\t" if mark in columns[0]), None)):
        _refuse(file, line, f"the columns are separated by {other!r}: separate them by commas")
    for line, values in lines[1:]:
        if len(values) != len(columns):
            _refuse(file, line, f"{len(values)} values for the {len(columns)} columns {', '.join(columns)}")
    return tuple(columns), [(line, dict(zip(columns, values, strict=True))) for line, values in lines[1:]]


def _jsonl(file: Path) -> tuple[tuple[str, ...], list[Row]]:
    """Return the keys of the first line of a JSONL file, and its rows; blank lines do not count."""
    rows: list[Row] = []
    for line, text in ((line, text) for line, text in enumerate(_text(file).split("\n"), 1) if text.strip()):
        try:
            row = parse_json(text, file)
        except JsonError as err:
            _refuse(file, line, err.reason)
        if not isinstance(row, dict):
            _refuse(file, line, f'{text.strip()[:40]} is not an object, such as {{"path": "a.jpg", "labels": ["cat"]}}')
        for key in row:
            if rows and key not in rows[0][1]:
                _refuse(file, line, f"{key!r} is not in the first line; {did_you_mean(key, rows[0][1])}")
        rows.append((line, row))
    return (tuple(rows[0][1]) if rows else (PATH, LABELS)), rows


def _kind(file: Path, columns: Sequence[str]) -> str:
    """Return which column has the classes, "" for a column each. Raise UserError for columns that do not fit."""
    if PATH not in columns:
        _refuse(file, 1, f"there is no column {PATH!r}; {did_you_mean(PATH, columns)}")
    kinds = [name for name in (LABEL, LABELS) if name in columns]
    others = [name for name in columns if name not in (PATH, SPLIT, LABEL, LABELS)]
    if len(kinds) == 2:
        _refuse(file, 1, f"there are both columns {LABEL!r} and {LABELS!r}: keep one")
    if kinds and others:
        _refuse(file, 1, f"beside {kinds[0]!r} there are other columns ({', '.join(others[:8])}): remove them")
    if not kinds and not others:
        _refuse(file, 1, f"there are no classes: add a column {LABEL!r} or {LABELS!r}, or one for each class")
    return kinds[0] if kinds else ""


def _path(file: Path, line: int, given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        _refuse(file, line, f"there is no path, but {given!r}")
    path = os.path.normpath(file.parent / given)
    if "\0" in path or not Path(path).is_relative_to(file.parent):
        _refuse(file, line, f"{given!r} leads out of the manifest's folder: put the manifest above its images")
    return path


def _split(file: Path, line: int, given: Any, cfg: DataConfig) -> str:
    """Return the split of a row, "none" if it is left out. The settings `*_split` come before usual names."""
    for split, value in cfg.given_splits.items():
        if given == value and value not in (None, NONE):
            return split
    split = split_of(given) if isinstance(given, str) else None
    if split is None:
        ways = "or name it with --config.data.train_split=NAME"
        _refuse(file, line, f"the split {given!r} is not known; {did_you_mean(str(given), WORDS)}, {ways}")
    return NONE if cfg.given_splits[split] is not None else split


def _classes(file: Path, line: int, row: Mapping[str, Any], kind: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of a row, each once."""
    for name in names:
        if str(row.get(name)).lower() not in VALUES:
            near = did_you_mean(name, (LABELS, LABEL, SPLIT))
            why = f"the class {name!r} is {row[name]!r}: give 0, 1, true, false or nothing"
            _refuse(file, line, f"{why}; if it is not a class, other columns have fixed names, {near}")
    if not kind:
        return tuple(name for name in names if VALUES[str(row.get(name)).lower()])
    found = row.get(kind)
    if kind == LABEL:
        if not isinstance(found, str) or not found.strip():
            _refuse(file, line, f"{LABEL} is {found!r}: give the name of one class, or use the column {LABELS!r}")
        return (found.strip(),)
    given = found.split(SEPARATOR) if isinstance(found, str) and found.strip() else found or ()
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) and name.strip() for name in given):
        _refuse(file, line, f"{LABELS} is {found!r}: give names of classes, joined by {SEPARATOR!r}")
    return tuple(dict.fromkeys(name.strip() for name in given))


def _refuse(file: Path, line: int, why: str) -> NoReturn:
    raise UserError(f"{file}:{line}: {why}")
