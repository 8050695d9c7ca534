"""Read PyTorch's checkpoint formats without torch: the byte range of each tensor, and the other values.

The zip format (torch 1.6 and later) keeps a pickle in `<root>/data.pkl` and each storage, uncompressed, in
`<root>/data/<key>`; a TorchScript archive (see convert/torchscript.py) does so too. The older format is five pickles
in a row, then the storages, each preceded by its length.
Source: pytorch/pytorch torch/serialization.py.
"""

import io
import math
import sys
import zipfile
from collections.abc import Callable

from convert.byte_ranges import BinaryFile, ByteRange, is_addressable, is_row_major
from convert.pickle_machine import Machine
from convert.torch_names import Storage, StorageType, Tensor, find_name
from convert.torchscript import CODE, ScriptObject, find_script_name, is_program, unwrap
from convert.tree import flatten, unlisted
from jaxdino.core.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little") + b"."
MAX_PICKLE_BYTES = 1 << 28
MAX_DIRECTORY = 8 << 20  # a record takes about 100 bytes, and zipfile 15 times as much memory
EXPAND_ROOM = 1 << 26
LOCAL_HEADER_BYTES = 30
Records = dict[str, tuple[int, int]]


def read_torch(file: BinaryFile) -> tuple[dict[str, ByteRange], dict[str, object], list[str]]:
    """Return byte ranges by joined key, the values that are not tensors, and notes about a list around them.

    A TorchScript archive has one such value, "torchscript", the name of the model's class.

    Raises:
      UserError: if the file is damaged or refused.
    """
    if file.read(0, 4) == b"PK\x03\x04":
        tree, starts, swap = _read_zip(file)
    else:
        tree, starts, swap = _read_legacy(file)
    tree, said = unlisted(tree, str(file.path))
    tensors, extras = flatten(tree, str(file.path))
    if isinstance(tree, ScriptObject):
        extras = {"torchscript": tree.name}
    spans = {key: _span(file, key, tensor, starts, swap) for key, tensor in tensors.items()}
    return spans, extras, said


def _span(file: BinaryFile, key: str, tensor: Tensor, starts: dict[str, int], swap: bool) -> ByteRange:
    item = tensor.dtype.itemsize
    skip = tensor.storage.skip * tensor.storage.itemsize
    size = math.prod(tensor.shape) * item
    if size > max(file.size, EXPAND_ROOM):
        raise UserError(f"{file.path}: tensor {key!r} expands to {size} bytes, more than the whole file")
    if len(tensor.shape) > 32 or not is_addressable(tensor.shape, tensor.dtype):
        raise UserError(f"{file.path}: tensor {key!r} has {len(tensor.shape)} axes, or axes larger than any memory")
    stride = None if is_row_major(tensor.shape, tensor.stride) else tensor.stride
    start = starts[tensor.storage.key] + skip + tensor.offset * item
    return ByteRange(file, start, tensor.dtype, tensor.shape, stride, swap)


def _storage(pid: object) -> Storage:
    """Return the stand-in for a persistent id ("storage", type, key, place, count[, view])."""
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
        raise ValueError("it refers to an object that is not a storage (a whole module was saved?)")
    kind, key, count = pid[1], pid[2], pid[4]
    if not isinstance(kind, StorageType) or not isinstance(key, str) or len(key) > 64:
        raise ValueError("a storage's description is not type, key, place and count")
    if type(count) is not int or not 0 <= count < 2**63:
        raise ValueError("a storage's description is not type, key, place and count")
    if len(pid) == 5 or pid[5] is None:
        return Storage(key, kind.dtype, count)
    _, skip, length = pid[5]
    if type(skip) is not int or type(length) is not int or min(skip, length) < 0 or skip + length > count:
        raise ValueError(f"a view of storage {key!r} is out of bounds")
    return Storage(key, kind.dtype, length, skip)


class _Storages:
    """Collect the storages that a pickle refers to, with the numbers of elements and bytes they must have."""

    def __init__(self):
        self.counts: dict[str, int] = {}
        self.bytes: dict[str, int] = {}

    def __call__(self, pid: object) -> Storage:
        storage = _storage(pid)
        size = pid[4] * storage.itemsize
        if self.bytes.setdefault(storage.key, size) != size:
            raise ValueError(f"storage {storage.key!r} has two sizes, {self.bytes[storage.key]} and {size} bytes")
        self.counts[storage.key] = pid[4]
        return storage


def _read_zip(file: BinaryFile) -> tuple[object, dict[str, int], bool]:
    records = _records(file)
    roots = [name[: -len("data.pkl")] for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        found = ", ".join(sorted(records)[:5]) or "nothing"
        raise UserError(f"{file.path}: a zip without one data.pkl is not a PyTorch checkpoint (holds {found})")
    root = roots[0]
    program = is_program(name.removeprefix(root) for name in records)
    start, size = records[f"{root}data.pkl"]
    if size > MAX_PICKLE_BYTES:
        raise UserError(f"{file.path}: data.pkl has {size} bytes, above the limit of {MAX_PICKLE_BYTES}")
    storages = _Storages()
    find = find_script_name if program else find_name
    with open(file.path, "rb") as stream:
        stream.seek(start)
        tree = Machine(stream, size, storages, str(file.path), find, file.size).run()
    tree = unwrap(tree, str(file.path)) if program else tree
    starts = {}
    for key, need in storages.bytes.items():
        if f"{root}data/{key}" not in records:
            raise UserError(f"{file.path}: the archive lacks the storage {root}data/{key}: truncated?")
        starts[key], have = records[f"{root}data/{key}"]
        if have != need:
            raise UserError(f"{file.path}: storage {root}data/{key} has {have} bytes, its tensors need {need}")
    order = _byte_order(file, records.get(f"{root}byteorder"))
    return tree, starts, order != sys.byteorder


def _byte_order(file: BinaryFile, record: tuple[int, int] | None) -> str:
    order = file.read(record[0], min(record[1], 16)).decode("latin1") if record else "little"
    if order not in ("little", "big"):
        raise UserError(f"{file.path}: the byteorder record says {order!r}, neither little nor big")
    return order


def _records(file: BinaryFile) -> Records:
    """Return {name: (first byte, length)} of every record; compressed, truncated or overlapping records are refused."""
    try:
        with zipfile.ZipFile(_Directory(file)) as archive:
            infos = archive.infolist()
    except UserError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, OverflowError, IndexError) as error:
        raise UserError(f"{file.path}: the zip directory is damaged ({error}): truncated download?") from error
    records: Records = {}
    for info in infos:
        name = info.filename
        if name in records:
            raise UserError(f"{file.path}: the zip names {name!r} twice")
        plain = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        if info.flag_bits & 1 or not (plain or name.partition("/")[2].startswith(CODE)):
            raise UserError(f"{file.path}: record {name!r} is compressed or encrypted; torch.save does neither")
        records[name] = (_first_byte(file, info), info.compress_size)
    at, last = 0, ""
    for (start, size), name in sorted((place, name) for name, place in records.items()):
        if start + size > file.size:
            raise UserError(f"{file.path}: record {name!r} claims {size} bytes, beyond the file's end")
        if start < at:
            raise UserError(f"{file.path}: records {last!r} and {name!r} overlap")
        at, last = start + size, name
    return records


class _Directory:
    """The file as zipfile reads it to list its records: the directory is one read, and may not be large."""

    def __init__(self, file: BinaryFile):
        self.file, self.at = file, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.file.size}[whence]
        if start + offset < 0:
            raise OSError("before the start of the file")
        self.at = start + offset
        return self.at

    def read(self, length: int = -1) -> bytes:
        length = max(0, self.file.size - self.at) if length is None or length < 0 else length
        if length > MAX_DIRECTORY:
            raise UserError(f"{self.file.path}: the zip directory has more than {MAX_DIRECTORY} bytes")
        data = self.file.read(self.at, length)
        self.at += len(data)
        return data


def _first_byte(file: BinaryFile, info: zipfile.ZipInfo) -> int:
    header = file.read(info.header_offset, LOCAL_HEADER_BYTES) if info.header_offset >= 0 else b""
    if len(header) < LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
        raise UserError(f"{file.path}: record {info.filename!r} has no header where the zip directory says")
    name, extra = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
    return info.header_offset + LOCAL_HEADER_BYTES + name + extra


def _read_legacy(file: BinaryFile) -> tuple[object, dict[str, int], bool]:
    where, storages = str(file.path), _Storages()
    with open(file.path, "rb") as stream:

        def load(persistent: Callable) -> object:
            size = min(file.size - stream.tell(), MAX_PICKLE_BYTES)
            return Machine(stream, size, persistent, where, file_size=file.size).run()

        if load(_storage) != LEGACY_MAGIC:
            raise UserError(f"{where}: a plain pickle, not a torch.save checkpoint")
        version, system = load(_storage), load(_storage)
        if version != 1001 or not isinstance(system, dict):
            raise UserError(f"{where}: this version of the older PyTorch format is unknown")
        tree, keys, at = load(storages), load(_storage), stream.tell()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{where}: the list of storages is damaged")
    starts: dict[str, int] = {}
    for key in keys:
        need = storages.bytes.get(key)
        if need is None or key in starts:
            raise UserError(f"{where}: storage {key!r} is listed twice, or belongs to no tensor")
        count = int.from_bytes(file.read(at, 8), "little")
        starts[key], at = at + 8, at + 8 + need
        if at > file.size or count != storages.counts[key]:
            raise UserError(f"{where}: storage {key!r} does not hold the {need} bytes its tensors need: truncated?")
    missing = sorted(set(storages.bytes) - set(starts))
    if missing:
        raise UserError(f"{where}: the file lacks the storage {missing[0]!r}: truncated?")
    # This format writes storages in little endian on every machine.
    return tree, starts, sys.byteorder != "little"
