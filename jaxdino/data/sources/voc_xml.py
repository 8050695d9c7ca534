"""Files in Pascal VOC's layout with objects: JPEGImages, Annotations/*.xml, ImageSets/<any>/<split>.txt."""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from defusedxml import DefusedXmlException, ElementTree

from jaxdino.core.errors import UserError
from jaxdino.data.config import DataConfig
from jaxdino.data.roots import existing, visible_folders
from jaxdino.data.sources.listed_rows import lines_of
from jaxdino.data.sources.masks import read_classes
from jaxdino.data.split_names import assign, flag, split_of
from jaxdino.data.tree import IMAGE_SUFFIXES

SETS = ("Main", "Segmentation", "Layout", ".")
"""Folders of ImageSets, the first that has the lists counts."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")
LARGEST = 16 << 20  # bytes of an XML file
CHUNK = 500  # files that one thread reads at a time
THREADS = 8


class Thing(NamedTuple):
    """A box of a file: its class as written, and left, top, right, bottom; NaN for what is not a number.

    Attributes:
      difficult: whether VOC's annotators found it hard to recognise; such boxes count neither for nor against a model.
    """

    name: str
    corners: tuple[float, ...]
    difficult: bool = False


def listed_images(cfg: DataConfig, ignored: Counter) -> tuple[Path, dict[str, list[tuple[str]]], dict[str, str]]:
    """List JPEGImages/<name>.* by the lists in ImageSets; without lists, all images are "train".

    Names without an image, and images in no list, are counted in `ignored`.

    Returns:
      The root, {split: images, each as a tuple of its path}, and {split: name of its list}.

    Raises:
      UserError: for a missing folder, lists without a training list, and lists without images.
    """
    top = existing(cfg.root, "voc")
    for name in ("JPEGImages", "Annotations"):
        if not (top / name).is_dir():
            near = ", ".join(path.name for path in visible_folders(top)[:6]) or "no folders"
            inner = next(
                (path.parent for path in sorted(top.glob("*/*/JPEGImages")) + sorted(top.glob("*/JPEGImages"))), None
            )
            hint = f"; there is one in {inner}: set the root to it" if inner else ""
            raise UserError(f"{top} has no folder {name}; found: {near}{hint}")
    images = {
        path.stem: str(path) for path in sorted((top / "JPEGImages").iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES
    }
    if not images:
        raise UserError(f"{top / 'JPEGImages'} holds no images")
    lists, called = _lists(top, cfg, ignored), {}
    files = {"train": [(path,) for path in images.values()]}
    if lists:
        called = {split: path.stem for split, path in lists.items()}
        files = {split: _listed(path, images, ignored) for split, path in lists.items()}
        used = {path for found in files.values() for (path,) in found}
        ignored["image in no list that is used"] += len(images) - len(used)
    return top, files, called


def _lists(top: Path, cfg: DataConfig, ignored: Counter) -> dict[str, Path]:
    """Return {split: its list}; lists of single classes, cat_train.txt, are counted. {} if there are no lists."""
    for name in SETS:
        where = top / "ImageSets" / name
        every = sorted(path.stem for path in where.glob("*.txt"))
        usual = [stem for stem in every if split_of(stem)]
        if not usual and not (every and any(cfg.given_splits.values())):
            continue
        found = assign(usual, cfg.given_splits, str(where), every)
        if "train" not in found:
            raise UserError(
                f"{where} has no train.txt; found: {', '.join(every)}. Name it with {flag('train', 'NAME')}"
            )
        unused = [stem for stem in every if stem not in (*found.values(), "trainval")]  # VOC's own union
        ignored["list of names that is not used"] += len(unused)
        return {split: where / f"{stem}.txt" for split, stem in found.items()}
    return {}


def _listed(file: Path, images: Mapping[str, str], ignored: Counter) -> list[tuple[str]]:
    """Return the images of a list. Raise UserError if it has none."""
    lines = [line.strip() for line in lines_of(file) if line.strip()]
    names = [line if line in images else line.split()[0] for line in lines]  # "name 1" in lists of a class
    found = [(images[name],) for name in dict.fromkeys(names) if name in images]
    if not found:
        raise UserError(f"{file} lists {len(names)} names, and none of them has an image in JPEGImages")
    ignored["name listed again"] += len(names) - len(set(names))
    ignored["name without an image"] += len(set(names) - images.keys())
    return found


def read_objects(images: Sequence[str], top: Path) -> tuple[list[str], Iterator[list[Thing] | str]]:
    """Return the annotation file of each image, "" where there is none, and an iterator over what they hold.

    An annotation that cannot be read gives the reason, as a text, in place of its objects.
    """
    files = [os.path.join(top, "Annotations", f"{Path(path).stem}.xml") for path in images]
    files = [file if os.path.isfile(file) else "" for file in files]
    return files, _read_in_threads(files)


def _read_in_threads(files: Sequence[str]) -> Iterator[list[Thing] | str]:
    parts = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        for part in pool.map(_read_all, parts):
            yield from part


def class_names(top: Path, found: set[str]) -> tuple[str, ...]:
    """Return the lines of a classes.txt at the root, or else the names that were found, sorted."""
    given = top / "classes.txt"
    if given.is_file():
        return tuple(dict.fromkeys(read_classes(given).values()))
    return tuple(sorted(found - {""}))


def _read_all(files: Sequence[str]) -> list[list[Thing] | str]:
    return [_read(file) for file in files]


def _read(file: str) -> list[Thing] | str:
    """Return the boxes of a file, none for "", or why it cannot be read."""
    if not file:
        return []
    try:
        if os.path.getsize(file) > LARGEST:
            return f"its annotation has more than {LARGEST >> 20} MiB"
        with open(file, "rb") as stream:
            root = ElementTree.fromstring(stream.read(LARGEST), forbid_dtd=True)
    except DefusedXmlException:
        return "its annotation has a document type, which is not read"
    except ElementTree.ParseError as err:
        return f"its annotation is no XML: {err}"
    except (OSError, ValueError, LookupError) as err:
        return f"its annotation cannot be read: {err}"
    return [_thing(found) for found in root.iter("object")]


def _thing(found: Any) -> Thing:
    corners = tuple(_number(found.findtext(f"bndbox/{name}")) for name in CORNERS)
    difficult = (found.findtext("difficult") or "").strip() == "1"
    return Thing((found.findtext("name") or "").strip(), corners, difficult)


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
