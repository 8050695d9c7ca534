"""Shards: the files of a data set in ArrayRecord files, with an index of their names, labels and sizes.

FOLDER/dataset.json                          format, source, classes, field, and for each split its shards
FOLDER/<split>-00000-of-00003.array_record   records: 4 bytes with the length of the header (little endian), the header,
                                             JSON of {"name", "split", "label", "labels" or "boxes"}, and the file's
                                             bytes
FOLDER/index/<split>.<array>.npy             names (uint8) and offsets (int64) of the texts, sizes (int64), and label
                                             (int32), labels (uint8, multi-hot), or boxes (float32, those of all images)
                                             with box_offsets (int64); they are mapped, not read
"""

import json
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.file_names import is_file_name
from jaxdino.core.json_file import JsonError, parse_json, read_json
from jaxdino.data.boxes import COLUMNS, BoxLists
from jaxdino.data.packed import Texts
from jaxdino.data.split_names import SPLITS

FILE, INDEX, FORMAT = "dataset.json", "index", 1
OPEN = 256  # shards that a process keeps open
READER = "readahead_buffer_size:0"  # records are read one by one, in any order
BOXES, BOX_OFFSETS = "boxes", "box_offsets"
FIELDS: Mapping[str, tuple[type, int]] = {"label": (np.int32, 1), "labels": (np.uint8, 2), BOXES: (np.float32, 2)}
"""Field -> type and number of axes of its array in the index."""
Values = np.ndarray | BoxLists
"""The values of a field of all images of a split."""


class Shard(NamedTuple):
    """A file of a split: its name, number of records, bytes, and SHA-256."""

    file: str
    records: int
    bytes: int
    sha256: str


class Shards(NamedTuple):
    """What a folder of shards says about itself. `splits`: {split: its shards}."""

    folder: Path
    source: str
    class_names: tuple[str, ...]
    field: str
    splits: Mapping[str, tuple[Shard, ...]]

    def index(self, split: str, name: str) -> Path:
        """Return the file of an array of the index."""
        return self.folder / INDEX / f"{split}.{name}.npy"


def encode(header: Mapping[str, Any], content: bytes) -> bytes:
    """Return a record."""
    head = json.dumps(header).encode()
    return struct.pack("<I", len(head)) + head + content


def decode(record: bytes) -> tuple[dict[str, Any], bytes]:
    """Return (header, the file's bytes) of a record. Raises ValueError for one that was not written by `encode`."""
    if len(record) < 4:
        raise ValueError("the record has no header")
    (size,) = struct.unpack("<I", record[:4])
    if size > len(record) - 4:
        raise ValueError("the record's header is longer than the record")
    try:
        header = parse_json(record[4 : 4 + size], "the record's header", dict)
    except JsonError as err:
        raise ValueError(str(err)) from None
    return header, record[4 + size :]


def open_reader(file: str | Path) -> Any:
    """Open a shard for reading single records."""
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordReader(str(file), READER)


class ShardStore:
    """The images of one split in shards, see `stored.Store`. Each process opens the files itself."""

    def __init__(self, folder: Path, shards: tuple[Shard, ...], names: Texts, sizes: np.ndarray):
        self.folder, self.shards, self.names, self.sizes = folder, shards, names, sizes
        self.starts = np.cumsum([0, *(shard.records for shard in shards)])
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, row: int) -> str:
        """Return the name of an image."""
        return self.names[row]

    def size(self, row: int) -> int:
        """Return the bytes of an image."""
        return int(self.sizes[row])

    def read(self, row: int) -> bytes:
        """Return the bytes of an image file. Raises OSError for a damaged shard."""
        place = int(np.searchsorted(self.starts, row, "right")) - 1
        file = self.folder / self.shards[place].file
        with self._lock:
            reader = self._readers.pop(place, None) or open_reader(file)
            self._readers[place] = reader  # the last one used stands last
            while len(self._readers) > OPEN:
                self._readers.pop(next(iter(self._readers)))
        try:
            (record,) = reader.read([row - int(self.starts[place])])
            content = decode(record)[1]
        except (RuntimeError, ValueError, IndexError) as err:
            raise OSError(f"{file} is damaged: {err}") from err
        if len(content) != self.sizes[row]:
            raise OSError(f"{file} is damaged: {len(content)} bytes instead of {self.sizes[row]}")
        return content

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardStore, (self.folder, self.shards, self.names, np.asarray(self.sizes))


def read_folder(folder: Path) -> Shards:
    """Read what a folder of shards says about itself. Raises UserError for a missing or damaged description."""
    file = folder / FILE
    if not file.is_file():
        begun = any(folder.glob("*.array_record*"))
        why = "its shards are not complete: repeat the command that wrote them" if begun else "it holds no shards"
        raise UserError(f"{folder} has no {FILE}: {why}. `jaxdino prepare --root DIR --out {folder}` writes shards")
    try:
        given = read_json(file, dict)
    except JsonError as err:
        raise UserError(str(err)) from None
    splits, names = given.get("splits"), given.get("class_names")
    good = (
        given.get("format") == FORMAT
        and given.get("field") in list(FIELDS)
        and isinstance(given.get("source"), str)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(splits, dict)
        and "train" in splits
        and splits.keys() <= set(SPLITS)
        and all(isinstance(found, list) and found and all(map(_is_shard, found)) for found in splits.values())
    )
    if not good:
        raise UserError(f"{file} was not written by this version of `jaxdino prepare`: write the shards again")
    ordered = {split: tuple(Shard(**one) for one in splits[split]) for split in SPLITS if split in splits}
    return Shards(folder, given["source"], tuple(names), given["field"], ordered)


def _is_shard(one: Any) -> bool:
    return (
        isinstance(one, dict)
        and one.keys() == set(Shard._fields)
        and is_file_name(one["file"])
        and all(type(one[name]) is int and 0 <= one[name] < 1 << 62 for name in ("records", "bytes"))
        and isinstance(one["sha256"], str)
    )


def open_index(shards: Shards, split: str) -> tuple[ShardStore, Values]:
    """Open the images of a split, and the values of its field.

    Raises:
      UserError: for files that are missing or do not fit together.
    """
    count = sum(shard.records for shard in shards.splits[split])
    for shard in shards.splits[split]:
        file = shards.folder / shard.file
        if not file.is_file() or file.stat().st_size != shard.bytes:
            what = f"has {file.stat().st_size} bytes instead of {shard.bytes}" if file.is_file() else "is missing"
            raise UserError(f"{file} {what}: copy it again, or repeat the `jaxdino prepare` that wrote it")
    names, offsets, sizes = (
        _array(shards.index(split, name), kind, 1)
        for name, kind in (("names", np.uint8), ("offsets", np.int64), ("sizes", np.int64))
    )
    values = _values(shards, split)
    sound = (
        len(offsets) == count + 1
        and len(sizes) == len(values) == count
        and offsets[0] == 0
        and offsets[-1] == len(names)
        and bool((np.diff(offsets) >= 0).all())
        and _fit(values, len(shards.class_names))
    )
    if not sound:
        raise UserError(f"the index of {split} in {shards.folder} does not fit its shards: write the shards again")
    return ShardStore(shards.folder, shards.splits[split], Texts(names, offsets), sizes), values


def _values(shards: Shards, split: str) -> Values:
    found = _array(shards.index(split, shards.field), *FIELDS[shards.field])
    if shards.field != BOXES:
        return found
    return BoxLists(found, _array(shards.index(split, BOX_OFFSETS), np.int64, 1))


def _fit(values: Values, classes: int) -> bool:
    """Return whether the values of a field are possible for this number of classes."""
    if isinstance(values, BoxLists):
        rows, offsets = values.rows, values.offsets
        ordered = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == len(rows) and (np.diff(offsets) >= 0).all()
        return bool(ordered and rows.shape[1:] == (COLUMNS,) and np.isfinite(rows).all()) and _in_range(
            rows[:, 4], classes
        )
    return values.shape[1:] == (classes,) if values.ndim == 2 else _in_range(values, classes)


def _in_range(values: np.ndarray, classes: int) -> bool:
    return not len(values) or (int(values.min()) >= 0 and int(values.max()) < max(classes, 1))


def _array(file: Path, kind: type, axes: int) -> np.ndarray:
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as err:  # NumPy raises many error types for a damaged header
        raise UserError(f"{file} cannot be read: {err}. Write the shards again") from None
    if found.dtype != kind or found.ndim != axes:
        raise UserError(f"{file} holds {found.dtype} {found.shape}, not what `jaxdino prepare` writes")
    return found
