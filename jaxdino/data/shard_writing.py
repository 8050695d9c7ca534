"""Write a source as shards: resumable, one shard after the other, and checked."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, parse_json, read_json, write_json
from jaxdino.core.words import few
from jaxdino.data.boxes import BoxLists
from jaxdino.data.identity import identify
from jaxdino.data.packed import Texts
from jaxdino.data.record import Source, Split
from jaxdino.data.shards import (
    BOX_OFFSETS,
    BOXES,
    FIELDS,
    FILE,
    FORMAT,
    INDEX,
    Shard,
    Shards,
    decode,
    encode,
    open_index,
    open_reader,
    read_folder,
)
from jaxdino.data.stored import Stored

PLAN = "prepare.json"  # what is being written: a folder with another plan is refused
WRITER = "group_size:1,uncompressed"  # records are read one by one, and image files are compressed already
THREADS = 8
CHUNK = 64  # files that are read ahead
SHOWN = 5


def write(source: Source, field: str, folder: Path, size: int, most_missing: float, say: Callable[[str], None]) -> None:
    """Write the files of a source as shards of `size` records each, in the order of the source.

    A shard is written beside its place and then renamed. Shards that an earlier call finished are kept if their SHA-256
    is right. A file that cannot be read becomes an empty record, so that all others keep their numbers. In a
    complete folder, shards that are missing or have another length are written again.

    Raises:
      UserError: if the folder holds something else, records are not files, or more than the share `most_missing` of the
        files cannot be read.
    """
    digests = identify(source).splits
    plan = {"format": FORMAT, "source": source.name, "field": field, "size": size, "splits": digests}
    plan["class_names"] = list(source.class_names)
    _begin(folder, parse_json(json.dumps(plan), "the plan of the shards", dict))
    if (folder / FILE).exists():
        again = _written_again(source, field, folder, size)
        done = f"is complete again: {few(again, SHOWN)} was missing or damaged" if again else "is complete already"
        say(f"{folder} {done}; --verify checks every record")
        return
    written: dict[str, list[dict[str, Any]]] = {}
    for name, split in source.splits.items():
        if not len(split) or not isinstance(split.records[0], str | Stored):
            raise UserError(
                f"the data source {source.name!r} has no image files in {name}: there is nothing to prepare"
            )
        _write_names(folder, split, field)
        count = -(-len(split) // size)
        sizes, lost, kept = [], [], 0
        with bar(len(split), f"writing {name}") as watched:
            for number in range(count):
                rows = range(number * size, min((number + 1) * size, len(split)))
                file = folder / f"{name}-{number:05d}-of-{count:05d}.array_record"
                found = _finished(file, len(rows))
                kept += found is not None
                found = found or _write_shard(file, split, field, rows)
                sizes += found.pop("sizes")
                lost += found.pop("lost")
                written.setdefault(name, []).append(found)
                watched.update(len(rows))
        np.save(folder / INDEX / f"{name}.sizes.npy", np.array(sizes, np.int64))
        if len(lost) > most_missing * len(split):
            raise UserError(f"{len(lost)} of {len(split)} files of {name} cannot be read: {few(lost, SHOWN)}")
        again = f", {kept} of them from an earlier call" if kept else ""
        say(f"{name}: {len(split)} images in {count} shards{again}")
        if lost:
            say(f"{name}: {len(lost)} files cannot be read and are empty: {few(lost, SHOWN)}")
    whole = {"format": FORMAT, "source": source.name, "class_names": list(source.class_names), "field": field}
    write_json(folder / FILE, {**whole, "splits": written})
    _without_notes(folder)


def _written_again(source: Source, field: str, folder: Path, size: int) -> list[str]:
    """Write the shards again that a complete folder has lost, and return their names."""
    whole, names = read_folder(folder), []
    splits = {name: [shard._asdict() for shard in shards] for name, shards in whole.splits.items()}
    for name, shards in whole.splits.items():
        for number, shard in enumerate(shards):
            file = folder / shard.file
            if not file.is_file() or file.stat().st_size != shard.bytes:
                rows = range(number * size, number * size + shard.records)
                found = _write_shard(file, source.splits[name], field, rows)
                splits[name][number] = {key: found[key] for key in Shard._fields}
                names.append(shard.file)
    if names:
        write_json(folder / FILE, read_json(folder / FILE, dict) | {"splits": splits})
        _without_notes(folder)
    return names


def _without_notes(folder: Path) -> None:
    for file in folder.glob("*.array_record.json"):
        file.unlink()


def _begin(folder: Path, plan: dict[str, Any]) -> None:
    """Make the folder, or compare the plan of an earlier call in it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / PLAN
    if file.exists():
        try:
            same = read_json(file, dict) == plan
        except JsonError:
            same = False
        if not same:
            raise UserError(f"{folder} was begun with other data or settings: give another --out, or remove it")
    elif any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: give another --out")
    else:
        write_json(file, plan)
    (folder / INDEX).mkdir(exist_ok=True)


def _write_names(folder: Path, split: Split, field: str) -> None:
    names = Texts.of(_name(split, row) for row in range(len(split)))
    found = {"names": names.blob, "offsets": names.offsets, **_arrays(split.fields[field], field)}
    for name, array in found.items():
        np.save(folder / INDEX / f"{split.name}.{name}.npy", array)


def _arrays(values: Any, field: str) -> dict[str, np.ndarray]:
    """Return the arrays of the index that hold the values of a field."""
    if field != BOXES:
        return {field: np.asarray(values).astype(FIELDS[field][0])}
    packed = BoxLists.of(list(values))
    return {BOXES: packed.rows, BOX_OFFSETS: packed.offsets}


def _name(split: Split, row: int) -> str:
    name = str(split.records[row])
    return name.removeprefix(os.path.join(split.root, "")) if split.root else name


def _value(values: Any, field: str, row: int) -> int | list[Any]:
    """Return the value of a record as it stands in its header."""
    value = values[row]
    if field == BOXES:
        return value.tolist()
    return int(value) if field == "label" else np.flatnonzero(value).tolist()


def _finished(file: Path, records: int) -> dict[str, Any] | None:
    """Return what is known about a shard that an earlier call finished; None if it is not there or was changed."""
    beside = file.with_name(file.name + ".json")
    try:
        found = read_json(beside, dict)
        if found["records"] == records == len(found["sizes"]) and found["sha256"] == _digest(file):
            return found
    except (JsonError, OSError, KeyError, TypeError):
        pass
    return None


def _write_shard(file: Path, split: Split, field: str, rows: Sequence[int]) -> dict[str, Any]:
    from array_record.python import array_record_module

    beside = file.with_name(file.name + ".part")
    writer = array_record_module.ArrayRecordWriter(str(beside), WRITER)
    sizes: list[int] = []
    lost: list[str] = []
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(rows), CHUNK):
                part = rows[start : start + CHUNK]
                for row, content in zip(part, pool.map(lambda row: _content(split.records[row]), part), strict=True):
                    if content is None:
                        lost.append(split.record_name(row))
                    header = {
                        "name": _name(split, row),
                        "split": split.name,
                        field: _value(split.fields[field], field, row),
                    }
                    writer.write(encode(header, content or b""))
                    sizes.append(len(content or b""))
    finally:
        writer.close()
    os.replace(beside, file)
    shard = Shard(file.name, len(rows), file.stat().st_size, _digest(file))
    found = {**shard._asdict(), "sizes": sizes, "lost": lost}
    write_json(file.with_name(file.name + ".json"), found)
    return found


def _content(record: str | Stored) -> bytes | None:
    try:
        return Path(record).read_bytes() if isinstance(record, str) else record.store.read(record.row)
    except (OSError, ValueError):
        return None


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(folder: Path) -> list[str]:
    """Check all shards of a folder: SHA-256, counts, and that each record is the one that the index names.

    Returns:
      A line for each split.

    Raises:
      UserError: for the first shard that is missing or damaged.
    """
    found, lines = read_folder(folder), []
    for split, files in found.splits.items():
        store, values = open_index(found, split)
        row = 0
        with bar(len(store), f"checking {split}") as watched:
            for shard in files:
                _verify_shard(found, split, shard, row, store, values)
                row += shard.records
                watched.update(shard.records)
        lines.append(f"{split}: {row} images in {len(files)} shards are as they were written")
    return lines


def _verify_shard(found: Shards, split: str, shard: Shard, first: int, store: Any, values: np.ndarray) -> None:
    file = found.folder / shard.file
    if _digest(file) != shard.sha256:
        raise UserError(
            f"{file} is damaged: its SHA-256 is not {shard.sha256[:12]}...; copy it again, or remove it and repeat the "
            "`jaxdino prepare` that wrote it"
        )
    reader = open_reader(file)
    if reader.num_records() != shard.records:
        raise UserError(f"{file} has {reader.num_records()} records instead of {shard.records}")
    for row in range(first, first + shard.records):
        header, content = decode(reader.read([row - first])[0])
        said = {"name": store.name(row), "split": split, found.field: _value(values, found.field, row)}
        if header != said or len(content) != store.size(row):
            raise UserError(f"{file}: record {row - first} is {header}, and the index says {said}")
