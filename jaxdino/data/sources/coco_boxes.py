"""List images with the boxes of COCO's annotation files; no masks are needed."""

import math
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdino.data.boxes import BoxedSource, Boxes
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.roots import existing
from jaxdino.data.sources.coco import annotation_files, image_folder, read_annotations
from jaxdino.data.split_names import SPLITS
from jaxdino.data.splitting import origins, shared_out


class Note(NamedTuple):
    """A box of an image: corners, class (None for a category that the file does not name), place in the file."""

    corners: tuple[float, ...]
    name: str | None
    crowd: bool
    place: int


Notes = list[Note]


def coco(cfg: DataConfig, annotations: str | None) -> BoxedSource:
    """List the images of annotations/instances_{train,val,test}*.json, or of {train,valid,test}/*.coco.json.

    Args:
      annotations: one file instead, whose images are split by `val_ratio` and `test_ratio`.

    Raises:
      UserError: if files are missing, several files match one split, a file is not in COCO format, or the images are
        not found.
    """
    top, ignored = existing(cfg.root, "coco"), Counter()
    files = annotation_files(top, cfg, annotations, ignored)
    listed: dict[str, list[tuple[str, Notes, str]]] = {}
    names: dict[str, None] = {}
    for split, file in files.items():
        given = read_annotations(file)
        names |= dict.fromkeys(given["categories"].values())
        listed[split] = _images(given, image_folder(top, file, given), ignored)
    shared = shared_out(listed, cfg, top)
    known = tuple(names)
    every = [entry for split in SPLITS if split in shared for entry in shared[split]]
    splits = {
        split: Split(split, [path for path, _, _ in shared[split]], {}, known, str(top))
        for split in SPLITS
        if split in shared
    }
    where = origins(cfg, {split: os.path.relpath(file, top) for split, file in files.items()}, "")
    return BoxedSource(Source("coco", known, splits, dict(+ignored), where), _boxes(every, known))


def _images(given: Mapping[str, Any], folder: Path, ignored: Counter) -> list[tuple[str, Notes, str]]:
    """Return (path, boxes, annotation file) of each image, in file order."""
    found: dict[Any, Notes] = {key: [] for key in given["images"]}
    for place, note in enumerate(given["annotations"]):
        if note["image_id"] not in found:
            ignored["annotation of an unknown image"] += 1
        elif note.get("bbox") is None:
            ignored["annotation without a box"] += 1
        else:
            name = given["categories"].get(note["category_id"])
            found[note["image_id"]].append(Note(_corners(note["bbox"]), name, note.get("iscrowd") in (1, True), place))
    return [
        (str(folder / image["file_name"]), found[key], str(given["file"])) for key, image in given["images"].items()
    ]


def _corners(box: Any) -> tuple[float, ...]:
    """Return left, top, right, bottom of [left, top, width, height]; NaN for anything else."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(one) in (int, float) for one in box):
        return (math.nan,) * 4
    try:
        left, top, width, height = map(float, box)
    except OverflowError:
        return (math.nan,) * 4
    return left, top, left + width, top + height


def _boxes(every: list[tuple[str, Notes, str]], known: tuple[str, ...]) -> Boxes:
    numbers = {name: label for label, name in enumerate(known)}
    flat = [note for _, notes, _ in every for note in notes]
    row = np.repeat(np.arange(len(every)), [len(notes) for _, notes, _ in every])
    label = np.array([-1 if note.name is None else numbers[note.name] for note in flat], np.int32)
    corners = np.array([note.corners for note in flat], np.float64).reshape(-1, 4)
    unknown = {int(box): "" for box in np.flatnonzero(label < 0)}
    files = [file for *_, file in every]
    crowd = np.array([note.crowd for note in flat], bool)

    def place(box: int) -> str:
        return f"{files[row[box]]}: annotation {flat[box].place}"

    return Boxes(row, corners, label, unknown, files, {}, place, crowd)
