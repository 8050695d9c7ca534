"""Text lists of images for the source "manifest": train.txt, val.txt and test.txt, without a line of columns.

A line is `path label`, `path,label` or only a path, whose class is then the folder of the image. Labels are names, or
numbers that a file of names or the folders of the images explain.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.config import DataConfig
from jaxdino.data.folders import find_images
from jaxdino.data.packed import Texts
from jaxdino.data.sources.cells import coded_of, texts_of
from jaxdino.data.sources.listed_images import PLACES, Images, normalised
from jaxdino.data.sources.listed_rows import lines_of, refuse, stream_lines
from jaxdino.data.split_names import assign, missing_train, split_word

SUFFIX = ".txt"
NAMES = ("classes.txt", "class_names.txt", "labels.txt", "names.txt")
"""Files of the names of classes: line i names class i, or a line gives the number and the name."""
PROBES = 20  # paths that are looked up to find the folder of the images
SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".JPEG")
"""Suffixes that a list may leave out."""
CHUNK = 1 << 16  # lines that are read at a time
FORMS = {
    "path,label": r"^(?P<path>.*[^\s,])\s*,\s*(?P<label>[^,]*[^\s,])$",
    "path<TAB>label": r"^(?P<path>.*\S)\s*\t\s*(?P<label>[^\t]*\S)$",
    "path label": r"^(?P<path>.*\S)\s+(?P<label>\S+)$",
    "path": r"^(?P<path>.*)(?P<label>)$",
}
"""Form of the lines -> its regular expression."""
FOLDER = r"(?:^|/)(?P<label>[^/]+)/[^/]+$"


class List(NamedTuple):
    """One list: its split, its file, the form of its lines, the paths, and number and value of each label."""

    split: str
    file: Path
    form: str
    paths: Texts
    numbers: np.ndarray
    labels: list[str]


def is_text_list(root: str | None) -> bool:
    """Return whether a root is a text list, or a folder of lists that names of splits name."""
    return bool(root) and bool(_lists(Path(os.path.expanduser(root or ""))))


def _lists(root: Path) -> list[Path]:
    """Return the text lists of a root: itself, or those in the folder or in one folder of it."""
    if root.is_file():
        return [root] if root.suffix.lower() == SUFFIX else []
    if not root.is_dir():
        return []
    for pattern in ("*.txt", "*/*.txt"):
        if found := [path for path in sorted(root.glob(pattern)) if split_word(path.stem)]:
            return found
    return []


def read_text_lists(cfg: DataConfig) -> Images:
    """Read text lists, find the folder of their images, and name the classes.

    Raises:
      UserError: with file and line, for a line without a label and a path that leads out or is listed twice; if there
        are no lists of the splits, or no images.
    """
    root = Path(os.path.abspath(os.path.expanduser(cfg.root or "")))
    files = _lists(root)
    called = {"train": files[0]} if root.is_file() else _assigned(cfg, files, root)
    lists = [_read(split, file) for split, file in called.items()]
    for one in lists:
        if not len(one.paths):
            raise UserError(f"{one.file} lists no image")
    starts = np.cumsum([0, *(len(one.paths) for one in lists)])

    def within(row: int) -> tuple[List, int]:
        one = int(np.searchsorted(starts, row, "right")) - 1
        return lists[one], row - int(starts[one])

    def place(row: int) -> tuple[Path, int]:
        one, place = within(row)
        return one.file, next(line for n, (line, _) in enumerate(_lines(one.file)) if n == place)

    def label_of(row: int) -> str:
        one, place = within(row)
        return one.labels[one.numbers[place]]

    raw = Texts.joined([one.paths for one in lists])
    base, raw = _located(cfg, root, called["train"], raw)
    paths = normalised(raw, str(base), place, f"the folder of the images, {base},", label_of)
    sets, which, names, note = _classes(lists, paths, _names_file([files[0].parent, root, base]))
    split = np.repeat(np.array([PLACES.index(one.split) for one in lists], np.int8), np.diff(starts))
    forms = few(list(dict.fromkeys(one.form for one in lists)), 4)
    notes = (f"text lists, each line {forms}; paths below {base}", *note)
    where = {one.split: one.file.name for one in lists}
    return Images(root, paths, sets, which, split, place, True, names, where, notes)


def _assigned(cfg: DataConfig, files: Sequence[Path], root: Path) -> dict[str, Path]:
    """Return {split: list}."""
    given = {split: name and name.removesuffix(SUFFIX) for split, name in cfg.given_splits.items()}
    every = {path.stem: path for path in sorted(files[0].parent.glob("*.txt"))}
    found = assign([path.stem for path in files], given, str(files[0].parent), every)
    if "train" not in found:
        raise missing_train(str(root), found, list(every))
    return {split: every[name] for split, name in found.items()}


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(stream_lines(file), 1):
        text = line.strip()
        if text and text[0] != "#":
            yield number, text


def _chunks(file: Path) -> Iterator[tuple[list[str], int]]:
    """Iterate over (lines, number of the first among them)."""
    part: list[str] = []
    start = 0
    for _, text in _lines(file):
        part.append(text)
        if len(part) == CHUNK:
            yield part, start
            start, part = start + CHUNK, []
    if part:
        yield part, start


def _read(split: str, file: Path) -> List:
    import pyarrow as pa
    import pyarrow.compute as pc

    paths: list[Texts] = []
    numbers: list[np.ndarray] = []
    known: dict[str, int] = {}
    form = ""
    for lines, start in _chunks(file):
        form = form or _form(lines)
        found: Any = pc.extract_regex(pa.array(lines, pa.string()), FORMS[form])  # type: ignore[attr-defined]
        if found.null_count:
            row = found.is_null().index(True).as_py()
            line = next(line for n, (line, _) in enumerate(_lines(file)) if n == start + row)
            refuse(file, line, f"{lines[row][:80]!r} has no label: the first lines are {form}")
        paths.append(texts_of(found.field("path")))
        local, values = coded_of(found.field("label"))
        numbers.append(np.array([known.setdefault(value, len(known)) for value in values], np.int32)[local])
    whole = np.concatenate(numbers) if numbers else np.empty(0, np.int32)
    return List(split, file, form, Texts.joined(paths), whole, list(known))


def _form(lines: Sequence[str]) -> str:
    """Return the form that most of the first lines have."""
    holds = {
        "path,label": lambda line: "," in line,
        "path<TAB>label": lambda line: "\t" in line,
        "path label": lambda line: len(line.split()) > 1,
    }
    return next((form for form, has in holds.items() if 2 * sum(map(has, lines)) > len(lines)), "path")


def _located(cfg: DataConfig, root: Path, first: Path, raw: Texts) -> tuple[Path, Texts]:
    """Return the folder of the images, and their paths below it. Raise UserError if there are none."""
    top = root.parent if root.is_file() else root
    places = [top / cfg.images] if cfg.images else [first.parent, first.parent / "images", top, top / "images"]
    if not cfg.images and first.parent == top:
        places += [top.parent, top.parent / "images"]
    places = [place for place in dict.fromkeys(places) if place.is_dir()]
    probes = [raw[row] for row in np.unique(np.linspace(0, len(raw) - 1, PROBES).astype(int))]
    for place in places:
        for suffix in SUFFIXES:
            if any(os.path.isfile(f"{place}/{probe}{suffix}") for probe in probes):
                return place, raw if not suffix else Texts.of(f"{path}{suffix}" for path in raw)
    for place in places:
        if (found := _by_name(place, probes, raw)) is not None:
            return place, found
    looked = ", ".join(map(str, places)) or str(top / (cfg.images or ""))
    raise UserError(
        f"the images of {first}, such as {probes[0]}, are in none of: {looked}, nor in folders of them. Name the "
        "folder of the images, relative to data.root: --config.data.images=DIR"
    )


def _by_name(place: Path, probes: Sequence[str], raw: Texts) -> Texts | None:
    """Return the paths of images that are listed by their names alone; None if they are not below a folder."""
    found: dict[str, str] = {}
    twice: dict[str, str] = {}
    for path in find_images(place, Counter()):
        name = os.path.basename(path)
        if found.setdefault(name, path) is not path:
            twice[name] = path
    if not any(probe in found for probe in probes):
        return None
    if twice and (name := next((name for name in raw if name in twice), None)):
        raise UserError(f"{name} is both {found[name]} and {twice[name]}: give paths in the lists instead of names")
    return Texts.of(os.path.relpath(found[name], place) if name in found else name for name in raw)


def _names_file(places: Sequence[Path]) -> Path | None:
    return next((place / name for place in places for name in NAMES if (place / name).is_file()), None)


Classes = tuple[list[tuple[str, ...]], np.ndarray, tuple[str, ...] | None, list[str]]


def _classes(lists: Sequence[List], paths: Texts, names_file: Path | None) -> Classes:
    """Return (sets, which, all names or None, notes), see `Images`."""
    known: dict[str, int] = {}
    which = []
    for one in lists:
        table = np.array([known.setdefault(label, len(known)) for label in one.labels], np.int32)
        which.append(table[one.numbers])
    numbers, labels = np.concatenate(which), list(known)
    if labels == [""]:
        numbers, labels = _folders(paths)
        return [(label,) for label in labels], numbers, None, ["the classes are the folders of the images"]
    if not all(re.fullmatch(r"\d{1,9}", label) for label in labels):
        return [(label,) for label in labels], numbers, None, []
    if names_file:
        names, why = _named(names_file, labels), f"the lines of {names_file}"
    else:
        folders, found = _folders(paths)
        pairs = np.unique(np.stack([numbers, folders]), axis=1) if found else np.empty((2, 0), int)
        one_to_one = pairs.shape[1] == len(labels) == len(found)
        names = {labels[a]: found[b] for a, b in pairs.T.tolist()} if one_to_one else {one: one for one in labels}
        why = "the folders of their images" if one_to_one else ""
    order = sorted(labels, key=int)
    shown = few([f"{label} is {names[label]}" for label in order], 6)
    note = f"classes by number, named after {why}: {shown}" if why else f"classes by number: no {NAMES[0]} names them"
    return [(names[label],) for label in labels], numbers, tuple(dict.fromkeys(names[one] for one in order)), [note]


def _folders(paths: Texts) -> tuple[np.ndarray, list[str]]:
    """Return the folder of each image as a number, and the folders; no folders if an image is in none."""
    known: dict[str, int] = {}
    numbers = np.empty(len(paths), np.int32)
    for row, path in enumerate(paths.below()):
        folder = os.path.basename(os.path.dirname(path))
        if not folder:
            return np.zeros(len(paths), np.int32), []
        numbers[row] = known.setdefault(folder, len(known))
    return numbers, list(known)


def _named(file: Path, labels: Sequence[str]) -> dict[str, str]:
    """Return {number: name} from a file of names. Raise UserError if it does not name every number."""
    lines = [(line, text.strip()) for line, text in enumerate(lines_of(file), 1) if text.strip()]
    pairs = [re.fullmatch(r"(\d{1,9})[\s,:]+(\S.*)", text) for _, text in lines]
    if lines and all(pairs):
        found = {str(int(pair[1])): pair[2] for pair in pairs if pair}
    else:
        values = [int(label) for label in labels]
        start = 1 if min(values) >= 1 and max(values) == len(lines) else 0
        found = {str(number): text for number, (_, text) in enumerate(lines, start)}
    names = {label: found[str(int(label))] for label in labels if str(int(label)) in found}
    if lacks := [label for label in labels if label not in names]:
        raise UserError(f"{file} names {len(lines)} classes, and the lists have others: {few(sorted(lacks), 5)}")
    if len(set(found.values())) < len(found):
        twice = next(text for text, count in Counter(found.values()).items() if count > 1)
        raise UserError(f"{file} names two classes {twice!r}: give each its own name")
    return names
