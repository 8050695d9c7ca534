"""The source "manifest" for boxes: a CSV or JSONL file with a line for each box.

Columns (in JSONL: keys): `path`, relative to the file; `x1`, `y1`, `x2`, `y2`, the left, top, right and bottom side in
pixels; `label`, the name of the class; and, if wanted, `split`. A line with a path alone is an image without objects.
"""

import math
from pathlib import Path
from typing import Any, cast

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.core.words import few
from jaxdino.data.boxes import BoxedSource, Boxes
from jaxdino.data.config import DataConfig
from jaxdino.data.packed import Texts
from jaxdino.data.record import Source, Split
from jaxdino.data.sources.cells import Coded, read_cells
from jaxdino.data.sources.listed_images import PLACES, normalised
from jaxdino.data.sources.listed_rows import Listed, open_list
from jaxdino.data.sources.manifest import PATH, SPLIT, splits_of_rows
from jaxdino.data.sources.text_lists import is_text_list
from jaxdino.data.split_names import NONE, SPLITS
from jaxdino.data.splitting import origins, ratios_of, stratified

CORNERS = ("x1", "y1", "x2", "y2")
LABEL = "label"


def has_boxes(cfg: DataConfig) -> bool:
    """Return whether a manifest has the columns of boxes. Raises UserError as `open_list`."""
    return not is_text_list(cfg.root) and {*CORNERS} <= {*open_list(cfg.root).columns}


def boxes(cfg: DataConfig) -> BoxedSource:
    """List the images of a manifest with their boxes.

    Raises:
      UserError: with file and line, for wrong columns, splits and paths, an image in two splits, and a file without
        images.
    """
    if cfg.columns is not None:
        raise UserError(
            f"data.columns={cfg.columns} is for classes of images; boxes have the columns {few(CORNERS, 4)}"
        )
    if is_text_list(cfg.root):
        raise UserError(f"{cfg.root} is a text list, which has no boxes: use a CSV or JSONL file, or data.name=yolo")
    found = open_list(cfg.root)
    for name in (PATH, *CORNERS, LABEL):
        if name not in found.columns:
            found.refuse(found.line, f"there is no column {name!r}; {did_you_mean(name, found.columns)}")
    split = (SPLIT,) * (SPLIT in found.columns)
    cells = read_cells(found, PATH, (*CORNERS, LABEL, *split), once=True)
    if not len(cells.paths):
        raise UserError(f"{found.file} lists no image: it has no line below the columns")
    image, texts = cast(np.ndarray, cells.numbers), cells.paths  # since each path is kept once
    first = np.full(len(texts), -1, np.int64)
    first[image[::-1]] = np.arange(len(image))[::-1]

    def place(row: int) -> tuple[Path, int]:
        return found.file, found.line_of(int(first[row]))

    images = normalised(texts, str(found.file.parent), place, "the manifest's folder")
    numbers = splits_of_rows(found, cells.coded[SPLIT], cfg) if split else np.zeros(len(image), np.int8)
    of_image = numbers[first]
    if len(other := np.flatnonzero(numbers != of_image[image])):
        found.refuse(found.line_of(int(other[0])), f"{texts[image[other[0]]]!r} is in two splits")
    return _source(cfg, found, images, of_image, image, cells.coded)


def _source(
    cfg: DataConfig, found: Listed, images: Texts, of_image: np.ndarray, image: np.ndarray, coded: dict[str, Coded]
) -> BoxedSource:
    """Divide the images among splits, and number their boxes in this order.

    Args:
      of_image: the split of each image, see `listed_images.Images.split`. image: int (M,), the image of each line.
    """
    top = found.file.parent
    listed = {name: np.flatnonzero(of_image == place) for place, name in enumerate(PLACES) if name != NONE}
    listed = {name: rows for name, rows in listed.items() if len(rows)}
    if "train" not in listed:
        raise UserError(f"{found.file} has no image of train; found: {', '.join(listed) or 'none'}")
    if ratios := ratios_of(cfg, listed):
        train = listed["train"]
        keys = images.below().chosen(train)
        parts = stratified(keys, np.zeros(len(keys), np.int32), ratios, cfg.split_seed, [top.name])
        shared = listed | {name: train[rows] for name, rows in parts.items()}
    else:
        shared = listed
    shared = {split: shared[split] for split in SPLITS if split in shared}
    order = np.full(len(images), -1, np.int64)
    kept = np.concatenate([*shared.values()])
    order[kept] = np.arange(len(kept))
    table, names = _table(found, coded, order[image], len(kept))
    splits = {split: Split(split, images.chosen(rows), {}, names, str(top)) for split, rows in shared.items()}
    ignored = {"in a split that is left out": len(images) - len(kept)}
    others = [name for name in found.columns if name not in (PATH, SPLIT, LABEL, *CORNERS)]
    notes = (f"not read: the column{'s'[: len(others) > 1]} {few(others, 8)}",) * bool(others)
    source = Source(
        "manifest",
        names,
        splits,
        {k: n for k, n in ignored.items() if n},
        origins(cfg, {split: split for split in listed}, ""),
        notes,
    )
    return BoxedSource(source, table)


def _table(found: Listed, coded: dict[str, Coded], image: np.ndarray, count: int) -> tuple[Boxes, tuple[str, ...]]:
    """Return the boxes of `count` images, and the names of their classes. Takes the columns of corners out of `coded`.

    Args:
      image: int (M,), the place of each line's image among all splits, -1 for an image that is left out.
    """
    blank = np.ones(len(image), bool)
    for one in (*(coded[name] for name in CORNERS), coded[LABEL]):
        blank &= np.array([value in ("", None) for value in one.values])[one.numbers]
    lines = np.flatnonzero((image >= 0) & ~blank)
    if (np.diff(image[lines]) < 0).any():
        lines = lines[np.argsort(image[lines], kind="stable")]
    corners = np.empty((len(lines), len(CORNERS)))
    for place, name in enumerate(CORNERS):
        side = coded.pop(name)
        corners[:, place] = np.array([_side(value) for value in side.values], np.float64)[side.numbers[lines]]
    given = [value.strip() if isinstance(value, str) else "" for value in coded[LABEL].values]
    label = coded[LABEL].numbers[lines]
    used = np.unique(label).tolist()
    names = tuple(sorted({given[number] for number in used} - {""}))
    known = {name: number for number, name in enumerate(names)}
    numbers = np.array([known.get(name, -1) for name in given], np.int32)[label]
    unknown = {int(box): repr(coded[LABEL].values[label[box]]) for box in np.flatnonzero(numbers < 0)}
    files = [str(found.file)] * count

    def where(box: int) -> str:
        return f"{found.file}:{found.line_of(int(lines[box]))}"

    return Boxes(image[lines], corners, numbers, unknown, files, {}, where), names


def _side(value: Any) -> float:
    """Return a number of pixels, or NaN."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan
