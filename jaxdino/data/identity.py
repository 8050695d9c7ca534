"""The identity of a data set: names, labels, sizes and, on request, contents of its records, in their order.

Two lists of records are compared by four columns of text, one entry per record:
  names     the image's path below the root, or "train[5]" for an array
  values    all fields: "3" for class 3, "0,4" for several classes, else a short SHA-256
  sizes     bytes of the image's file, then of the files of its fields (masks): "1200,310"; "-" for a missing one
  contents  a short SHA-256 of these files, or of the array; "" if files were not read
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxdino.data.packed import Texts
from jaxdino.data.record import Source, Split
from jaxdino.data.stored import ImageFile, Stored

COLUMNS = ("names", "values", "sizes", "contents")
MANY = 1_000_000  # records of a split; of more, no columns are kept and no sizes looked up
PART = 1 << 16  # records of such a split that are looked at together
SHORT = 32  # hexadecimal digits of a digest of one record: 128 bits
CHUNK = 1000  # files that one thread looks up at a time
READ = 50  # files that one thread reads at a time
BLOCK = 1 << 20  # bytes
THREADS = 8
MISSING = "-"
UNKNOWN = "?"  # the size of a stored image that is known only by reading it


@dataclasses.dataclass(frozen=True)
class Records:
    """The columns of one split, N entries each."""

    names: list[str]
    values: list[str]
    sizes: list[str]
    contents: list[str]

    def digests(self) -> dict[str, Any]:
        """Return {"records": N, column: SHA-256 of its entries in their order}; contents that were not read are None.

        The order counts, since batches are drawn by the number of a record.
        """
        found: dict[str, Any] = {"records": len(self.names)}
        for column in COLUMNS:
            whole = hashlib.sha256("\n".join(getattr(self, column)).encode()).hexdigest()
            found[column] = whole if column != "contents" or all(self.contents) else None
        return found


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a source consists of.

    Attributes:
      splits: {split: `Records.digests`}.
      records: {split: its columns}, without splits of which only the digests are known.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Mapping[str, Any]]
    records: Mapping[str, Records] = dataclasses.field(default_factory=dict)


def identify(source: Source, contents: bool = False) -> Identity:
    """Return the identity of a source: one look-up of the size per file, and with `contents` a full read of it.

    Of a split of more than `MANY` records only the digests are known, and the sizes of its files only with `contents`.
    """
    many = {name for name, split in source.splits.items() if len(split) > MANY}
    records = {name: _records(split, contents) for name, split in source.splits.items() if name not in many}
    digests = {
        name: _streamed(split, contents) if name in many else records[name].digests()
        for name, split in source.splits.items()
    }
    return Identity(tuple(printable(name) for name in source.class_names), digests, records)


def printable(text: str) -> str:
    """Return a text without control characters, line ends and invalid parts of file names: these are escaped."""
    return text if text.isprintable() and "\\" not in text else text.encode("unicode_escape").decode()


def _streamed(split: Split, contents: bool) -> dict[str, Any]:
    """Return the digests of a split (see `Records.digests`) in little memory."""
    hashes = {column: hashlib.sha256() for column in COLUMNS}
    for start in range(0, len(split), PART):
        rows = slice(start, start + PART)
        fields = {name: values[rows] for name, values in split.fields.items()}
        part = dataclasses.replace(split, records=split.records[rows], fields=fields)
        found = None if contents else _plain(part)
        if found is None:
            columns = _records(part, contents, sizes=contents, first=start)
            found = {column: "\n".join(getattr(columns, column)).encode() for column in COLUMNS}
        for column, text in found.items():
            hashes[column].update(b"\n" * bool(start) + text)
    known = {"names", "values"} | ({"sizes", "contents"} if contents else set())
    digests = {column: whole.hexdigest() if column in known else None for column, whole in hashes.items()}
    return {"records": len(split), **digests}


def _plain(split: Split) -> dict[str, bytes] | None:
    """Return the names and values of packed paths with one number each, a line each, or None for any others: faster."""
    records, values = split.records, list(split.fields.values())
    root = "" if split.root is None else os.path.join(split.root, "")
    if not isinstance(records, Texts) or records.prefix != root or len(values) != 1 or np.ndim(values[0]) != 1:
        return None
    signs = records.blob[records.offsets[0] : records.offsets[-1]]
    if ((signs < ord(" ")) | (signs > ord("~")) | (signs == ord("\\"))).any():
        return None
    return {"names": b"\n".join(records.encoded()), "values": "\n".join(map(str, values[0].tolist())).encode()}


def _records(split: Split, contents: bool, sizes: bool = True, first: int = 0) -> Records:
    """Return the columns of a split.

    Args:
      sizes: whether the sizes of files are looked up. first: number of the first record, for names.
    """
    root = "" if split.root is None else os.path.join(split.root, "")
    split = dataclasses.replace(split, records=list(split.records))
    names = [
        printable(str(one).removeprefix(root)) if isinstance(one, ImageFile) else f"{split.name}[{first + row}]"
        for row, one in enumerate(split.records)
    ]
    files, values = _files(split, root)
    flat = [path for paths in files for path in paths]
    found = _regrouped(_in_threads(_size, flat), files) if sizes else [""] * len(names)
    read = _regrouped(_in_threads(_digest, flat, READ), files) if contents else [""] * len(names)
    for row, one in enumerate(split.records):
        if isinstance(one, Stored):
            known = one.store.size(one.row)
            found[row] = str(known) if known >= 0 else UNKNOWN
            read[row] = _stored(one) if contents else ""
        elif not isinstance(one, str):
            found[row], read[row] = "x".join(map(str, np.shape(one))), _array(one)
    return Records(names, values, found, [_short(one) if "," in one else one for one in read])


def _regrouped(found: Iterable[str], files: list[list[str]]) -> list[str]:
    """Join the entries of each record's files."""
    rest = iter(found)
    return [",".join(next(rest) for _ in paths) for paths in files]


def _in_threads(of: Callable[[str], str], paths: Sequence[str], chunk: int = CHUNK) -> list[str]:
    parts = [paths[start : start + chunk] for start in range(0, len(paths), chunk)]
    with ThreadPoolExecutor(THREADS) as pool:
        return [one for part in pool.map(lambda part: [of(path) for path in part], parts) for one in part]


def _size(path: str) -> str:
    try:
        return str(os.stat(path).st_size)
    except (OSError, ValueError):
        return MISSING


def _digest(path: str) -> str:
    try:
        whole = hashlib.sha256()
        with open(path, "rb", buffering=0) as stream:
            while part := stream.read(BLOCK):  # file_digest would clear a buffer of 256 KiB for every small file
                whole.update(part)
        return whole.hexdigest()[:SHORT]
    except (OSError, ValueError):
        return MISSING


def _stored(one: Stored) -> str:
    try:
        with one.open() as stream:
            return hashlib.sha256(stream.read()).hexdigest()[:SHORT]
    except Exception:  # libraries of stores raise many error types for damaged files
        return MISSING


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:SHORT]


def _array(value: Any) -> str:
    array = np.ascontiguousarray(value)
    return hashlib.sha256(f"{array.dtype.str}{array.shape}".encode() + array.tobytes()).hexdigest()[:SHORT]


def files_of(split: Split) -> list[list[str]]:
    """Return the files of each record: its image if that is a file, then those that its fields name."""
    return _files(split, "")[0]


def _files(split: Split, root: str) -> tuple[list[list[str]], list[str]]:
    """Return the files of each record, and the text of its fields."""
    files, known = [[one] if isinstance(one, str) else [] for one in split.records], {}
    columns = [_column(values, root, files, known) for values in split.fields.values()]
    return files, ["; ".join(row) for row in zip(*columns, strict=True)] if columns else [""] * len(split)


def _column(values: Sequence[Any], root: str, files: list[list[str]], known: dict[int, str]) -> list[str]:
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return [str(one) for one in values.tolist()]
    if isinstance(values, np.ndarray) and np.isin(values, (0, 1)).all() and values.ndim == 2:
        return [",".join(map(str, np.flatnonzero(row).tolist())) for row in values]
    found = []
    for row, one in enumerate(values):
        text = one if isinstance(one, int | np.integer) else _short(_text(one, root, files[row], known))
        found.append(str(text))
    return found


def _text(value: Any, root: str, files: list[str], known: dict[int, str]) -> str:
    """Return a text that differs if the value does.

    A dataclass with a `path` is a file: its path below the root is taken, and its other settings, which many share.
    """
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, tuple | list) and any(map(dataclasses.is_dataclass, value)):
        return "[" + " ".join(_text(one, root, files, known) for one in value) + "]"
    if not dataclasses.is_dataclass(value):
        return repr(value)
    parts, path = [type(value).__name__], getattr(value, "path", None)
    for field in dataclasses.fields(value):
        one = getattr(value, field.name)
        if path is None:
            parts.append(_text(one, root, files, known))
        elif field.name == "path":
            files.append(path)
            parts.append(path.removeprefix(root))
        else:
            if id(one) not in known:  # all of these objects live as long as the source
                known[id(one)] = _text(one, root, files, known)
            parts.append(known[id(one)])
    return "(" + " ".join(parts) + ")"
