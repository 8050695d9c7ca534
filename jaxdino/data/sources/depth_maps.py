"""Sources of the field "depth": a folder of images with one of depth maps, or the columns of a manifest."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.core.words import few
from jaxdino.data.config import DataConfig
from jaxdino.data.depth_field import DepthMap
from jaxdino.data.record import Source, Split
from jaxdino.data.roots import existing
from jaxdino.data.sources.cells import read_cells
from jaxdino.data.sources.class_maps import chosen_places, matched_files
from jaxdino.data.sources.listed_images import PLACES, normalised
from jaxdino.data.sources.listed_rows import open_list
from jaxdino.data.sources.manifest import PATH, SPLIT, splits_of_rows
from jaxdino.data.sources.text_lists import is_text_list
from jaxdino.data.split_names import NONE
from jaxdino.data.splitting import origins, shared_out

DEPTH = "depth"


def depth(cfg: DataConfig) -> Source:
    """List images/a.jpg with depth/a.png, or the folders `data.images` and `data.depths`, and their splits.

    A depth map belongs to the image of the same name, or of the same name and an ending that all maps share. Images
    without a map, and maps without an image, are skipped and counted.

    Raises:
      UserError: if a folder is missing or no image has a map.
    """
    top, ignored = existing(cfg.root, DEPTH), Counter()
    found, called = chosen_places(top, cfg, "depths", DEPTH)
    files = {split: matched_files(place, ignored, "depth map") for split, place in found.items()}
    return _source(DEPTH, top, files, cfg, ignored, called, ())


def manifest(cfg: DataConfig) -> Source:
    """List the images of a CSV or JSONL file with the columns `path`, `depth` and, if wanted, `split`.

    Both are paths relative to the file.

    Raises:
      UserError: with file and line, for wrong columns, splits and paths, and a file without images.
    """
    if cfg.columns is not None:
        raise UserError(f"data.columns={cfg.columns} is for classes of images; depth maps are in the column {DEPTH!r}")
    if is_text_list(cfg.root):
        raise UserError(f"{cfg.root} is a text list, which has no depth maps: use a CSV or JSONL file")
    found = open_list(cfg.root)
    for name in (PATH, DEPTH):
        if name not in found.columns:
            found.refuse(found.line, f"there is no column {name!r}; {did_you_mean(name, found.columns)}")
    split = (SPLIT,) * (SPLIT in found.columns)
    cells = read_cells(found, PATH, (DEPTH, *split))
    if not len(cells.paths):
        raise UserError(f"{found.file} lists no image: it has no line below the columns")

    def place(row: int) -> tuple[Path, int]:
        return found.file, found.line_of(row)

    images = list(normalised(cells.paths, str(found.file.parent), place, "the manifest's folder"))
    maps, ignored = _maps(found.file.parent, cells.coded[DEPTH]), Counter()
    numbers = splits_of_rows(found, cells.coded[SPLIT], cfg) if split else np.zeros(len(images), np.int8)
    files: dict[str, list[tuple[str, str]]] = {}
    for image, path, number in zip(images, maps, numbers.tolist(), strict=True):
        if PLACES[number] == NONE:
            ignored["in a split that is left out"] += 1
        elif path is None:
            ignored["image without depth map"] += 1
        else:
            files.setdefault(PLACES[number], []).append((image, path))
    if "train" not in files:
        raise UserError(f"{found.file} has no image of train with a depth map; found: {', '.join(files) or 'none'}")
    others = [name for name in found.columns if name not in (PATH, DEPTH, SPLIT)]
    notes = (f"not read: the column{'s'[: len(others) > 1]} {few(others, 8)}",) * bool(others)
    return _source("manifest", found.file.parent, files, cfg, ignored, {one: one for one in files}, notes)


def _maps(folder: Path, column: Any) -> list[str | None]:
    """Return the path of each row's depth map, None for an empty one."""
    values = [value.strip() if isinstance(value, str) else "" for value in column.values]
    paths = [str(folder / value) if value else None for value in values]
    return [paths[number] for number in column.numbers.tolist()]


def _source(
    name: str,
    top: Path,
    files: Mapping[str, Sequence[tuple[str, str]]],
    cfg: DataConfig,
    ignored: Counter,
    called: Mapping[str, str],
    notes: tuple[str, ...],
) -> Source:
    """Split off what is missing."""
    splits = {}
    for split, found in shared_out(files, cfg, top).items():
        maps = [DepthMap(path, cfg.depth_scale) for _, path in found]
        splits[split] = Split(split, [image for image, _ in found], {DEPTH: maps}, (), str(top))
    return Source(name, (), splits, dict(+ignored), origins(cfg, called, ""), notes)
