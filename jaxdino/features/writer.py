"""Write the features of a data set shard by shard, so that an interrupted extraction goes on where it stopped.

  manifest.json              what the features were made of, their names and shapes, and the shards
  index.parquet              a line per image: path, split, class, folder and row of its features, or why it has none
  train/00000/cls-1.npy      features of the shard's readable images, (rows, D), see `storage`
  train/00000/cls-1.view1.npy  the same of the first augmented view
  train/00000/rows.parquet   the shard's lines of the index
  train/00000/shard.json     rows, and the size of each file
A shard's folder is written beside its place and renamed when all its files are on the disk.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json, write_json
from jaxdino.data.record import Source, Split
from jaxdino.features import manifest
from jaxdino.features.index import merge, write_rows
from jaxdino.features.manifest import Made
from jaxdino.features.storage import bytes_per_image, encoded, write_array

SHARD, ROWS, INDEX = "shard.json", "rows.parquet", "index.parquet"
LOCK = ".lock"
SPARE = 1.02  # the index and the heads of the files
SHARD_BYTES = 1 << 29
"""A shard has at most this many bytes of float32: they are in memory together."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of a split: the records from `start` to `stop`."""

    split: str
    number: int
    start: int
    stop: int

    @property
    def place(self) -> str:
        """The shard's folder below that of the features."""
        return f"{self.split}/{self.number:05d}"


Values = Iterator[Mapping[str, np.ndarray]]
Extract = Callable[[Split, Shard, int], tuple[Values, Any]]
"""Called with a shard's records, the shard and a view (0: as in evaluation): its batches and their `BadImages`."""


def rows_of(asked: int, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the images of a shard: as asked, or fewer if they are large."""
    each = sum(bytes_per_image(shape, "float32") for shape in shapes.values())
    return max(1, min(asked, SHARD_BYTES // each))


def shards_of(source: Source, rows: int) -> list[Shard]:
    """Return the shards of all splits, with at most `rows` records each."""
    return [
        Shard(name, number, start, min(start + rows, len(split)))
        for name, split in source.splits.items()
        for number, start in enumerate(range(0, len(split), rows))
    ]


def begin(folder: Path, made: Made, shapes: Mapping[str, tuple[int, ...]], overwrite: bool) -> None:
    """Prepare the folder: refuse what is stale or foreign, check the disk, write the manifest.

    Raises:
      UserError: if the folder holds other features (what differs is named), other files, or the disk is too small.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(f"{folder}: cannot be created: {err.strerror or err}") from err
    splits = made.identity.splits
    with FileLock(folder / LOCK):
        there = {entry.name for entry in folder.iterdir()} - {LOCK}
        if foreign := sorted(there - {manifest.FILE, INDEX, *("train", "val", "test"), *_exports()}):
            raise UserError(f"{folder} holds {', '.join(foreign[:3])}, which is not of features: give another --out")
        if there and manifest.FILE not in there:
            raise UserError(f"{folder} holds {sorted(there)[0]} and no {manifest.FILE} of features: give another --out")
        if there and overwrite:
            _delete(folder)
        elif there:
            refuse_stale(folder, made)
        per_image = sum(bytes_per_image(shape, made.settings["store"]) for shape in shapes.values())
        views = made.settings["views"]
        images = sum(splits[name]["records"] * (1 + views * (name == "train")) for name in splits)
        have = sum(file.stat().st_size for file in folder.rglob("*.npy"))
        need, free = max(0, int(per_image * images * SPARE) - have), shutil.disk_usage(folder).free
        if need > free:
            raise UserError(
                f"{folder}: the features need {need / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} left: free some, "
                "or take fewer: --layers 1, no --patches, --store int8 (a quarter of float32)"
            )
        if not (folder / manifest.FILE).exists():
            manifest.write_manifest(folder, made, {"features": _shapes(shapes), "complete": False})


def refuse_stale(folder: Path, made: Made) -> None:
    """Raise UserError if the folder holds features that were made otherwise, naming what differs."""
    lines = manifest.differences(manifest.made_of(manifest.read_manifest(folder)), made)
    if lines:
        raise UserError(
            f"{folder} holds other features than these would be: {'; '.join(lines)}. Give another --out, or --overwrite"
        )


def write_shards(
    folder: Path, made: Made, source: Source, extract: Extract, part: tuple[int, int], say: Callable[[str], None]
) -> None:
    """Write the shards of this process that are not there yet.

    Args:
      part: (i, n): every n-th shard from the i-th, for n processes.
    """
    shards = shards_of(source, made.settings["shard_rows"])[part[0] :: part[1]]
    missing = [shard for shard in shards if not is_written(folder / shard.place, say)]
    if len(missing) < len(shards):
        say(f"features: {len(shards) - len(missing)} of {len(shards)} shards are there already")
    total = sum(shard.stop - shard.start for shard in missing)
    with bar(None, "features", total=total) as watched:
        for shard in missing:
            _write_shard(folder, made, source, extract, shard, watched.update)


def _write_shard(
    folder: Path, made: Made, source: Source, extract: Extract, shard: Shard, done: Callable[[int], Any]
) -> None:
    split = source.split(shard.split).chosen(range(shard.start, shard.stop))
    place, store = folder / shard.place, made.settings["store"]
    beside = place.with_name(f".{place.name}.{os.getpid()}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        sizes: dict[str, int] = {}
        views = made.settings["views"] if shard.split == "train" else 0
        batches, bad = extract(split, shard, 0)
        found, index = _collected(batches, done)
        for name, values in found.items():
            for ending, array in encoded(values, store).items():
                sizes[f"{name}{ending}.npy"] = write_array(beside / f"{name}{ending}.npy", array)
        for view in range(1, views + 1):
            others, seen = _collected(extract(split, shard, view)[0], lambda count: None)
            _check_same(index, seen, shard)
            for name, values in others.items():
                for ending, array in encoded(values, store).items():
                    file = f"{name}.view{view}{ending}.npy"
                    sizes[file] = write_array(beside / file, array)
        columns = (source.class_names, made.data["field"], index, bad.reasons)
        sizes[ROWS] = write_rows(beside / ROWS, split, shard, *columns)
        write_json(beside / SHARD, {"rows": len(index), "unread": len(bad), "files": sizes})
        _publish(beside, place)
    except OSError as err:
        raise UserError(f"{place}: cannot be written: {err.strerror or err}") from err
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _collected(batches: Values, done: Callable[[int], Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the features of the readable images and their places in the shard."""
    rows: list[np.ndarray] = []
    parts: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        read = batch["weight"] > 0
        rows.append(batch["index"][read])
        for name, values in batch.items():
            if name not in ("weight", "index"):
                parts.setdefault(name, []).append(values[read])
        done(int(np.count_nonzero(batch["index"] >= 0)))
    return {name: np.concatenate(values) for name, values in parts.items()}, np.concatenate(rows)


def _check_same(index: np.ndarray, seen: np.ndarray, shard: Shard) -> None:
    if not np.array_equal(index, seen):
        raise UserError(f"{shard.place}: images could be read once and not a second time: is the disk at fault?")


def _publish(beside: Path, place: Path) -> None:
    """Rename a finished shard to its place. Another process may have put the same one there before."""
    for folder in (beside, beside.parent):
        _sync(folder)
    try:
        os.replace(beside, place)
    except OSError:
        if not (place / SHARD).exists():
            raise
    _sync(place.parent)


def _sync(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_written(place: Path, say: Callable[[str], None]) -> bool:
    """Return whether a shard is complete; a damaged one is removed."""
    if not place.exists():
        return False
    try:
        sizes = read_json(place / SHARD, dict)["files"]
        wrong = [name for name, size in sizes.items() if (place / name).stat().st_size != size]
    except (JsonError, KeyError, OSError):
        wrong = [SHARD]
    if wrong:
        say(f"features: {place / wrong[0]} is damaged: the shard is made anew")
        shutil.rmtree(place)
    return not wrong


def finish(folder: Path, made: Made, source: Source, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """Write the index and the complete manifest if all shards are there; return what it says of them, else None."""
    shards = shards_of(source, made.settings["shard_rows"])
    if not all((folder / shard.place / SHARD).exists() for shard in shards):
        return None
    with FileLock(folder / LOCK):
        _remove_drafts(folder)
        known = {shard: read_json(folder / shard.place / SHARD, dict) for shard in shards}
        if not sum(one["rows"] for one in known.values()):
            raise UserError(f"no image could be read: {INDEX} of each shard in {folder} has the reasons")
        merge(folder / INDEX, [folder / shard.place / ROWS for shard in shards])
        listed = [{"place": shard.place, "split": shard.split, **one} for shard, one in known.items()]
        images = {name: sum(one["rows"] for one in listed if one["split"] == name) for name in source.splits}
        unread = {name: sum(one["unread"] for one in listed if one["split"] == name) for name in source.splits}
        about = {"features": _shapes(shapes), "images": images, "unread": unread, "shards": listed, "complete": True}
        manifest.write_manifest(folder, made, about)
    return about


def _remove_drafts(folder: Path) -> None:
    """Remove what a killed process left behind. Every shard is there, so no other process writes one."""
    for draft in folder.glob("*/.*.part"):
        shutil.rmtree(draft, ignore_errors=True)


def _delete(folder: Path) -> None:
    """Delete a cache; the manifest last, since it says that the other files are ours."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == manifest.FILE):
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def _exports() -> tuple[str, ...]:
    return tuple(f"{split}.pt" for split in ("train", "val", "test"))


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in shapes.items()}
