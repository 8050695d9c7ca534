"""Read columns of a CSV or JSONL file of any size: the paths packed, every other column as numbers of its values.

A CSV file without quotes is read by pyarrow; any other, and one that pyarrow refuses, row by row. The result is the
same, and errors always come from the rows, with their lines.
"""

import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdino.data.packed import Texts
from jaxdino.data.sources.listed_rows import BOM, COMMENT, Listed

BLOCK = 1 << 24  # bytes that pyarrow parses at a time
CHUNK = 1 << 16  # rows that are packed at a time
OTHER = "\0"  # begins the text of a path that is not one: the JSON of its value


class Coded(NamedTuple):
    """A column with few different values.

    Attributes:
      numbers: int32 (N,), index into `values` of each row. values: the different values, in order of appearance.
    """

    numbers: np.ndarray
    values: list[Any]

    def first(self, value: int) -> int:
        """Return the first row with the value of a number."""
        return int(np.argmax(self.numbers == value))


class Cells(NamedTuple):
    """Columns of a file.

    Attributes:
      paths: as they are written. coded: the other columns by name.
      numbers: int32 (N,), index into `paths` of each row if each path is kept once, else None.
    """

    paths: Texts
    coded: dict[str, Coded]
    numbers: np.ndarray | None = None


def read_cells(listed: Listed, path: str, columns: Sequence[str], once: bool = False) -> Cells:
    """Read a column of paths and other columns.

    Args:
      once: keep each path once, in order of appearance, for files with several rows for a path.

    Raises:
      UserError: with file and line, see `Listed.rows`.
    """
    gather = _grouped if once else _gathered
    if listed.is_csv and listed.columns and not _holds(listed.file, b'"'):
        import pyarrow

        try:
            return gather(_arrow_chunks(listed, [path, *columns]), columns)
        except pyarrow.ArrowInvalid:  # the rows say what is wrong, and in which line
            pass
    return gather(_row_chunks(listed, [path, *columns]), columns)


Chunk = tuple[Texts, list[tuple[np.ndarray, list[Any]]]]


def _gathered(chunks: Iterator[Chunk], columns: Sequence[str]) -> Cells:
    """Join chunks; the values of all of them are numbered together."""
    paths: list[Texts] = []
    numbers: list[list[np.ndarray]] = [[] for _ in columns]
    known: list[dict[str, int]] = [{} for _ in columns]
    values: list[list[Any]] = [[] for _ in columns]
    for part, coded in chunks:
        paths.append(part)
        for place, (local, found) in enumerate(coded):
            table = np.empty(len(found), np.int32)
            for row, value in enumerate(found):
                key = value if isinstance(value, str) else OTHER + json.dumps(value)  # 1 is not True
                number = known[place].setdefault(key, len(known[place]))
                if number == len(values[place]):
                    values[place].append(value)
                table[row] = number
            numbers[place].append(table[local])
    coded = {name: Coded(_whole(numbers.pop(0)), found) for name, found in zip(columns, values, strict=True)}
    return Cells(Texts.joined(paths), coded)


def _whole(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int32), *parts])


def _grouped(chunks: Iterator[Chunk], columns: Sequence[str]) -> Cells:
    """Join chunks as `_gathered`, with each path once."""
    numbers: list[np.ndarray] = []
    known = 0

    def shortened() -> Iterator[Chunk]:
        nonlocal known
        for texts, coded in chunks:
            local, texts = numbered(texts)
            numbers.append(local + np.int32(known))
            known += len(texts)
            yield texts, coded

    cells = _gathered(shortened(), columns)
    places, paths = numbered(cells.paths)
    return Cells(paths, cells.coded, _whole([places[numbers.pop(0)] for _ in range(len(numbers))]))


def _row_chunks(listed: Listed, names: Sequence[str]) -> Iterator[Chunk]:
    places = [listed.columns.index(name) if name in listed.columns else -1 for name in names]
    part: list[Sequence[Any]] = []

    def packed() -> Chunk:
        columns = [[row[place] if place >= 0 else None for row in part] for place in places]
        paths = Texts.of(one if isinstance(one, str) else OTHER + json.dumps(one) for one in columns[0])
        return paths, [(np.arange(len(part)), column) for column in columns[1:]]

    for _, row in listed.rows():
        part.append(row)
        if len(part) == CHUNK:
            yield packed()
            part.clear()
    yield packed()


def numbered(texts: Texts) -> tuple[np.ndarray, Texts]:
    """Return the number of each text among the different ones, int32 (N,), and these in order of appearance."""
    import pyarrow as pa

    buffers = [None, pa.py_buffer(np.ascontiguousarray(texts.offsets)), pa.py_buffer(np.ascontiguousarray(texts.blob))]
    coded = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(texts), buffers).dictionary_encode()
    _, offsets, blob = coded.dictionary.buffers()
    ends = np.frombuffer(offsets, np.int64)[: len(coded.dictionary) + 1]
    own = np.frombuffer(blob, np.uint8) if blob is not None else np.empty(0, np.uint8)
    return coded.indices.to_numpy(), Texts(own, ends, texts.prefix)


def _holds(file: Path, sign: bytes) -> bool:
    with open(file, "rb") as stream:
        if not stream.seek(0, 2):
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(sign) >= 0


def _arrow_chunks(listed: Listed, names: Sequence[str]) -> Iterator[Chunk]:
    """Read a CSV file without quotes. Raises pyarrow.ArrowInvalid for a damaged row."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    every = listed.columns
    with open(listed.file, "rb") as stream:
        _skip_head(stream)
        reader = csv.open_csv(
            stream,
            csv.ReadOptions(column_names=list(every), block_size=BLOCK),
            csv.ParseOptions(quote_char=False),
            csv.ConvertOptions(column_types=dict.fromkeys(every, pa.string()), strings_can_be_null=False),
        )
        for batch in reader:
            columns = {name: pc.utf8_trim_whitespace(batch.column(name)) for name in every}  # type: ignore[attr-defined]
            filled = [pc.not_equal(column, "").to_numpy(zero_copy_only=False) for column in columns.values()]  # type: ignore[attr-defined]
            rows = np.logical_or.reduce(filled)
            if not rows.all():  # a row of nothing but commas is a blank line
                columns = {name: column.filter(pa.array(rows)) for name, column in columns.items()}
            yield texts_of(columns[names[0]]), [coded_of(columns[name]) for name in names[1:]]


def _skip_head(stream: Any) -> None:
    """Read up to the line below the columns' names, see `listed_rows`. Raises pyarrow.ArrowInvalid for a lone CR."""
    import pyarrow

    while line := stream.readline():
        text = line.removeprefix(BOM)
        if b"\r" in text.rstrip(b"\r\n"):
            raise pyarrow.ArrowInvalid("a line that ends in CR alone")
        if text.strip() and not text.startswith(COMMENT.encode()):
            return


def texts_of(column: Any) -> Texts:
    """Return an arrow array of strings as packed texts."""
    _, offsets, blob = column.buffers()
    first = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    return Texts(np.frombuffer(blob, np.uint8) if blob is not None else np.empty(0, np.uint8), first)


def coded_of(column: Any) -> tuple[np.ndarray, list[str]]:
    """Return (numbers, different values) of an arrow array of strings."""
    coded = column.dictionary_encode()
    return coded.indices.to_numpy(), coded.dictionary.to_pylist()
