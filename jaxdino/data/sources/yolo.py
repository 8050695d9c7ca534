"""The source "yolo": images with a text file of boxes each, `class cx cy w h` in shares of the image's sides."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from jaxdino.core.errors import UserError
from jaxdino.core.words import counted
from jaxdino.data.boxes import BoxedSource, Boxes
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.roots import existing, visible_folders
from jaxdino.data.sources.listed_rows import lines_of
from jaxdino.data.split_names import SPLITS, assign, missing_train
from jaxdino.data.splitting import origins, shared_out
from jaxdino.data.tree import scan

IMAGES, LABELS = "images", "labels"
NAMES = ("data.yaml", "data.yml", "dataset.yaml", "classes.txt", "obj.names", f"{LABELS}/classes.txt")
"""Files below the root that may name the classes, the first that is there counts."""
LARGEST = 16 << 20  # bytes of a text file
CHUNK = 500  # files that one thread reads at a time
THREADS = 8
POLYGON = 7  # fewest numbers of a line with an outline in place of a box


class Found(NamedTuple):
    """The boxes of a file: corners (n, 4) in shares of the image's sides, classes as written, lines from 1."""

    corners: np.ndarray
    names: list[str]
    lines: list[int]


NOTHING = Found(np.zeros((0, 4)), [], [])


def yolo(cfg: DataConfig) -> BoxedSource:
    """List images/<split>/* with labels/<split>/*.txt, <split>/images/* with <split>/labels/*.txt, or without splits.

    A text file may also be beside its image. An image without one has no objects. The classes are the names in
    data.yaml, or the lines of classes.txt, the first for class 0. Of a line with an outline, `class x y x y x y ...`,
    the box around it is taken. Paths in data.yaml are not read.

    Raises:
      UserError: if folders, names of classes, or all text files are missing.
    """
    top, ignored = existing(cfg.root, "yolo"), Counter()
    places, called = _places(top, cfg)
    listed = {split: _images(folder, ignored) for split, folder in places.items()}
    if empty := [str(places[split]) for split, found in listed.items() if not found]:
        raise UserError(f"{empty[0]} holds no images")
    shared = shared_out(listed, cfg, top)
    paths = {split: [path for (path,) in shared[split]] for split in SPLITS if split in shared}
    every = [path for found in paths.values() for path in found]
    names = _class_names(top)
    boxes = _boxes(every, names)
    if not any(boxes.files):
        raise UserError(f"no image of {top} has a text file of boxes; that of {every[0]} is {label_file(every[0])}")
    splits = {split: Split(split, found, {}, names, str(top)) for split, found in paths.items()}
    without = counted({"images have no text file: they count as images without objects": boxes.files.count("")})
    source = Source("yolo", names, splits, dict(+ignored), origins(cfg, called, ""), (without,) * bool(without))
    return BoxedSource(source, boxes)


def label_file(image: str) -> str:
    """Return the text file of an image: in "labels" if it is below a folder "images", else beside it."""
    stem = os.path.splitext(image)[0] + ".txt"
    head, inside, tail = stem.rpartition(f"{os.sep}{IMAGES}{os.sep}")
    return f"{head}{os.sep}{LABELS}{os.sep}{tail}" if inside else stem


def _places(top: Path, cfg: DataConfig) -> tuple[dict[str, Path], dict[str, str]]:
    """Return {split: the folder of its images} and {split: its name}. Raise UserError without a training split."""
    home = top / IMAGES if (top / IMAGES).is_dir() else top
    folders = {path.name: path for path in visible_folders(home) if path.name not in (IMAGES, LABELS)}
    called = assign(folders, cfg.given_splits, str(home))
    if not called:
        return {"train": home}, {}
    if "train" not in called:
        raise missing_train(str(home), called, folders)
    inner = {split: folders[name] / IMAGES for split, name in called.items()}
    return {split: path if path.is_dir() else path.parent for split, path in inner.items()}, called


def _images(folder: Path, ignored: Counter) -> list[tuple[str]]:
    found = scan(str(folder))
    ignored["hidden"] += sum(one.hidden for one in found.walk())
    ignored.update({f"not an image ({kind})": n for kind, n in found.kinds().items() if kind != ".txt"})
    return [(path,) for path in found.all_images()]


def _class_names(top: Path) -> tuple[str, ...]:
    """Return the names of the classes. Raise UserError if nothing names them, or the file is damaged."""
    file = next((top / name for name in NAMES if (top / name).is_file()), None)
    if file is None:
        raise UserError(
            f"nothing names the classes of {top}: write classes.txt, line 1 for class 0, or data.yaml, "
            "`names: [cat, dog]`, into it"
        )
    names = [line.strip() for line in lines_of(file)] if file.suffix not in (".yaml", ".yml") else _yaml_names(file)
    while names and not names[-1]:
        names.pop()
    if not names or "" in names or len({*names}) < len(names):
        raise UserError(f"{file}: the names of the classes must be texts, each once and none empty: {names[:8]}")
    return tuple(names)


def _yaml_names(file: Path) -> list[str]:
    """Read the entry "names" of a YAML file: a list, or {number: name} from 0 on. Raise UserError for anything else."""
    try:
        given = yaml.safe_load("".join(lines_of(file)))
    except (yaml.YAMLError, RecursionError, ValueError) as err:
        raise UserError(f"{file} is not YAML: {str(err).partition(chr(10))[0]}") from None
    except Exception as err:  # PyYAML raises many error types for damaged tags
        raise UserError(f"{file} is not YAML: {type(err).__name__}") from None
    found = given.get("names") if isinstance(given, dict) else None
    if isinstance(found, dict) and sorted(found, key=str) == sorted(range(len(found)), key=str):
        found = [found[number] for number in range(len(found))]
    if not isinstance(found, list) or not all(isinstance(name, str | int) for name in found):
        raise UserError(f"{file} must have `names: [cat, dog]`, or `names: {{0: cat, 1: dog}}`, from 0 on")
    return [str(name).strip() for name in found]


def _boxes(images: Sequence[str], names: tuple[str, ...]) -> Boxes:
    files = [label_file(path) for path in images]
    files = [file if os.path.isfile(file) else "" for file in files]
    read, broken = [], {}
    parts = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(lambda some: [_read(file) for file in some], parts):
            for one in part:
                if isinstance(one, str):
                    broken[len(read)] = one
                read.append(NOTHING if isinstance(one, str) else one)
    known = {str(number): number for number in range(len(names))}
    labels = [known.get(name, -1) for one in read for name in one.names]
    unknown = {box: name for box, name in enumerate(name for one in read for name in one.names) if labels[box] < 0}
    row = np.repeat(np.arange(len(read)), [len(one.names) for one in read])
    lines = np.array([line for one in read for line in one.lines], np.int32)
    corners = np.concatenate([np.zeros((0, 4)), *(one.corners for one in read)])

    def place(box: int) -> str:
        return f"{files[row[box]]}:{lines[box]}"

    return Boxes(row, corners, np.array(labels, np.int32), unknown, files, broken, place, relative=True)


def _read(file: str) -> Found | str:
    """Return the boxes of a file, none for "", or why it cannot be read."""
    if not file:
        return NOTHING
    try:
        if os.path.getsize(file) > LARGEST:
            return f"its text file has more than {LARGEST >> 20} MiB"
        lines = lines_of(Path(file))
    except (OSError, UserError) as err:
        return f"its text file cannot be read: {err}"
    rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    corners = np.array([_corners(words[1:]) for _, words in rows], np.float64).reshape(-1, 4)
    return Found(corners, [_number(words[0]) for _, words in rows], [number for number, _ in rows])


def _number(text: str) -> str:
    """Return a class as it is named in a table of numbers: "3" for 3, 03 and 3.0."""
    bare = text.removesuffix(".0")
    return str(int(bare)) if bare.isdecimal() and len(bare) < 10 else text


def _corners(words: Sequence[str]) -> tuple[float, ...]:
    """Return left, top, right, bottom of a line's numbers, a box or an outline; NaN for anything else."""
    bad = (math.nan,) * 4
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return bad
    if not all(map(math.isfinite, numbers)):
        return bad
    if len(numbers) == 4:
        x, y, width, height = numbers
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(numbers) < POLYGON - 1 or len(numbers) % 2:
        return bad
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
