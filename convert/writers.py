"""Write checkpoints tensor by tensor: safetensors, as one file or a folder, and .pth without torch.

The tensors are given as `(key, shape, dtype, fetch)`: headers are written from the first three, and `fetch()` is
called once, when its bytes are written, so at most one tensor is in memory here.
"""

import json
import math
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from convert.atomic import AtomicFiles, refuse_existing
from convert.dtypes import TO_SAFETENSORS, TO_TORCH
from convert.pickle_writer import pickle_checkpoint, pickle_state_dict
from jaxdino.core.bars import bytes_bar
from jaxdino.core.errors import UserError

MAX_SHARD_BYTES = 5_000_000_000
ALIGNMENT = 64
CHUNK = 1 << 24
LARGE_RECORD = 1 << 30
LOCAL_HEADER_BYTES = 30
ZIP64_FIELD_BYTES = 20
INDEX = "model.safetensors.index.json"


class Item(NamedTuple):
    """A tensor to be written; `fetch()` returns it with exactly this shape and dtype."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fetch: Callable[[], np.ndarray]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(
    target: str | Path,
    tensors: Iterable[tuple],
    metadata: dict[str, str] | None = None,
    max_shard_bytes: int | None = MAX_SHARD_BYTES,
    overwrite: bool = False,
) -> list[Path]:
    """Write one `.safetensors` file, or the weights of a Hugging Face folder; return the files written.

    A target that ends in .safetensors is always one file. In a folder, weights above `max_shard_bytes` are split into
    model-00001-of-0000N.safetensors with an index. Raise UserError for an existing target (unless `overwrite`), a
    repeated key, an unsupported dtype, or a tensor that differs from its declared shape or dtype; no file is left then.
    """
    target, items = Path(target), _items(tensors, TO_SAFETENSORS, "safetensors")
    metadata = {"format": "pt", **(metadata or {})}
    if target.suffix == ".safetensors":
        shards, retired, folder = {target.name: items}, [], target.parent
        refuse_existing([target], overwrite)
    else:
        if target.exists() and not target.is_dir():
            raise UserError(f"{target}: is a file; expected a folder, or a name that ends in .safetensors")
        shards, folder = _shards(items, max_shard_bytes), target
        retired = [
            target / INDEX,
            target / "model.safetensors",
            *sorted(target.glob("model-*-of-*.safetensors")),
        ]
        refuse_existing(retired, overwrite)
    total = sum(item.bytes for item in items)
    with AtomicFiles(folder, retired) as drafts, bytes_bar(total, f"writing {target.name}") as watched:
        for name, part in shards.items():
            with drafts.open(name) as file:
                _write_shard(file, part, metadata, watched)
        if len(shards) > 1:
            with drafts.open(INDEX) as file:
                file.write(_index(shards))
            shards[INDEX] = []
    return [folder / name for name in shards]


def write_pth(
    target: str | Path,
    tensors: Iterable[tuple],
    wrap: str | None = None,
    overwrite: bool = False,
    groups: Sequence[str] = (),
    numbers: Mapping[str, int] | None = None,
) -> Path:
    """Write a state dict in torch.save's zip format, without torch; `wrap` is a key to nest it under.

    With `groups`, several state dicts are written: each key begins with a group and a dot, and the file holds
    {group: state dict}, with the integers `numbers` beside the groups.

    torch.load reads it with weights_only=True and with mmap=True (storages start at multiples of 64). Raise UserError
    as in write_safetensors; no partial file is left.
    """
    target, items = Path(target), _items(tensors, TO_TORCH, "PyTorch")
    refuse_existing([target], overwrite)
    root = target.stem
    with (
        AtomicFiles(target.parent) as drafts,
        drafts.open(target.name) as file,
        zipfile.ZipFile(file, "w") as archive,
        bytes_bar(sum(item.bytes for item in items), f"writing {target.name}") as watched,
    ):
        headers = [item[:3] for item in items]
        pickled = pickle_checkpoint(headers, groups, numbers or {}) if groups else pickle_state_dict(headers, wrap)
        _add_record(file, archive, f"{root}/data.pkl", [pickled], len(pickled))
        _add_record(file, archive, f"{root}/byteorder", [sys.byteorder.encode()], len(sys.byteorder))
        for number, item in enumerate(items):
            _add_record(file, archive, f"{root}/data/{number}", _chunks(item, watched), item.bytes)
        _add_record(file, archive, f"{root}/version", [b"3\n"], 2)
    return target


def _items(tensors: Iterable[tuple], known: dict[np.dtype, str], what: str) -> list[Item]:
    items, keys = [], set()
    for key, shape, dtype, fetch in tensors:
        item = Item(key, tuple(int(n) for n in shape), np.dtype(dtype), fetch)
        if item.dtype not in known:
            raise UserError(f"tensor {key!r}: {what} has no dtype {item.dtype}; it knows {', '.join(known.values())}")
        if key in keys or (known is TO_SAFETENSORS and key == "__metadata__"):
            raise UserError(f"tensor {key!r}: the name is a duplicate, or reserved")
        keys.add(key)
        items.append(item)
    if not items:
        raise UserError("there is no tensor to write")
    return items


def _chunks(item: Item, watched: tqdm) -> Iterable[memoryview]:
    """Yield the tensor's bytes in pieces and update the progress bar; the tensor is fetched at the first piece."""
    array = np.asarray(item.fetch())
    if array.shape != item.shape or array.dtype != item.dtype:
        given = f"{array.dtype} {array.shape}"
        raise UserError(f"tensor {item.key!r}: announced as {item.dtype} {item.shape}, given as {given}")
    raw = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    for at in range(0, len(raw), CHUNK):
        yield raw[at : at + CHUNK]
        watched.update(len(raw[at : at + CHUNK]))


def _shards(items: list[Item], limit: int | None) -> dict[str, list[Item]]:
    parts: list[list[Item]] = [[]]
    room = limit
    for item in items:
        if limit is not None and parts[-1] and item.bytes > room:
            parts.append([])
            room = limit
        parts[-1].append(item)
        room = None if limit is None else room - item.bytes
    if len(parts) == 1:
        return {"model.safetensors": items}
    return {f"model-{i:05d}-of-{len(parts):05d}.safetensors": part for i, part in enumerate(parts, 1)}


def _index(shards: dict[str, list[Item]]) -> bytes:
    total = sum(item.bytes for part in shards.values() for item in part)
    weight_map = {item.key: name for name, part in shards.items() for item in part}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return (json.dumps(index, indent=2) + "\n").encode()


def _write_shard(file: BinaryIO, items: list[Item], metadata: dict[str, str], watched: tqdm) -> None:
    # Wide types first, so every tensor starts at a multiple of its item size.
    items = sorted(items, key=lambda item: -item.dtype.itemsize)
    header: dict = {"__metadata__": metadata}
    at = 0
    for item in items:
        offsets = [at, at + item.bytes]
        entry = {"dtype": TO_SAFETENSORS[item.dtype], "shape": list(item.shape), "data_offsets": offsets}
        header[item.key], at = entry, offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for item in items:
        file.writelines(_chunks(item, watched))


def _add_record(
    file: BinaryIO, archive: zipfile.ZipFile, name: str, chunks: Iterable[bytes | memoryview], size: int
) -> None:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    large = size > LARGE_RECORD
    header = LOCAL_HEADER_BYTES + len(name.encode()) + (ZIP64_FIELD_BYTES if large else 0)
    info.extra = _padding(file.tell() + header)
    with archive.open(info, "w", force_zip64=large) as record:
        record.writelines(chunks)


def _padding(end: int) -> bytes:
    """Return an extra field, as in torch.save, that moves the record's first byte to a multiple of 64."""
    length = -(end + 4) % ALIGNMENT
    return b"FB" + length.to_bytes(2, "little") + b"Z" * length
