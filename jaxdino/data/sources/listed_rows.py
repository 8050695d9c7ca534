"""Read a CSV or JSONL file as rows of named values, each with its line, for messages.

`cells` reads the columns of a file of any size; the rows here say where in the file one of them stands.
"""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, parse_json
from jaxdino.core.rules import did_you_mean
from jaxdino.data.split_names import near_names

KINDS = (".csv", ".jsonl")
COMMENT = "#"
BOM = b"\xef\xbb\xbf"
Rows = Iterator[tuple[int, Sequence[Any]]]
"""(line, the values in the order of the columns) of each row. A value that a JSONL row lacks is None."""


class Listed(NamedTuple):
    """A file and its columns.

    Attributes:
      line: the line of the columns' names, from 1; in JSONL that of the first row.
    """

    file: Path
    columns: tuple[str, ...]
    line: int

    @property
    def is_csv(self) -> bool:
        """Whether it is a CSV file; else JSONL."""
        return self.file.suffix.lower() == ".csv"

    def rows(self) -> Rows:
        """Iterate over the rows. Raises UserError with file and line for a damaged one."""
        if not self.columns:
            return iter(())
        return _below(self, _csv_rows(self.file)) if self.is_csv else _jsonl_rows(self.file, self.columns)

    def line_of(self, row: int) -> int:
        """Return the line of a row, the first of a row of several lines."""
        return next(line for number, (line, _) in enumerate(self.rows()) if number == row)

    def refuse(self, line: int, why: str) -> NoReturn:
        """Raise UserError with the file and a line."""
        refuse(self.file, line, why)


def open_list(root: str | None) -> Listed:
    """Return a file with its columns. Blank lines do not count, nor lines of a CSV file with # before the columns.

    Raises:
      UserError: with file and line, for a file that is missing, of another kind, or damaged at its beginning.
    """
    file = _existing(root)
    return (_csv if file.suffix.lower() == ".csv" else _jsonl)(file)


def refuse(file: Path, line: int, why: str) -> NoReturn:
    """Raise UserError with a file and a line."""
    raise UserError(f"{file}:{line}: {why}")


def _existing(root: str | None) -> Path:
    """Return the file. Raise UserError if it is not given, is not a file, or is of another kind."""
    file = Path(os.path.abspath(os.path.expanduser(root or ".")))
    if root and file.is_file() and file.suffix.lower() in KINDS:
        return file
    folder = file if file.is_dir() else file.parent
    near = near_names(file.name, sorted(path.name for path in folder.glob("*") if path.suffix.lower() in KINDS))
    found = f"; found in {folder}: {near}" if near else ""
    raise UserError(
        f"data.root={root} is not a manifest: give a file, --config.data.root=FILE.csv or FILE.jsonl, or text lists, "
        f"train.txt and val.txt in a folder, --config.data.root=DIR{found}"
    )


def lines_of(file: Path) -> list[str]:
    """Return the lines of a UTF-8 file with their ends, without a byte order mark.

    Raises:
      UserError: with file and line, for a file that cannot be read or is not UTF-8.
    """
    try:
        data = file.read_bytes().removeprefix(BOM)
    except OSError as err:
        raise UserError(f"{file} cannot be read: {err.strerror}") from None
    try:
        return list(io.StringIO(data.decode("utf-8"), newline=""))
    except UnicodeDecodeError as err:
        *before, last = list(io.StringIO(data[: err.start].decode("utf-8") + ".", newline=""))
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        why = f"byte 0x{data[err.start]:02x} at column {len(last)} is not UTF-8{' (but UTF-16)' if wide else ''}"
        refuse(file, len(before) + 1, f"{why}: save the file as UTF-8")


def stream_lines(file: Path) -> Iterator[str]:
    """Iterate over the lines of a UTF-8 file, as `lines_of`, without holding them all."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            yield from stream
    except UnicodeDecodeError:
        lines_of(file)  # raises with line and column
        raise
    except OSError as err:
        raise UserError(f"{file} cannot be read: {err.strerror}") from None


def _csv_rows(file: Path) -> Rows:
    """Iterate over the rows of a CSV file, that of the columns' names too. The line of a row is its first one."""
    above, lines = 0, stream_lines(file)
    for line in lines:
        if line.strip() and not line.startswith(COMMENT):
            break
        above += 1
    else:
        return

    def rest() -> Iterator[str]:
        yield line
        yield from lines

    reader, first = csv.reader(rest(), strict=True, skipinitialspace=True), above + 1
    try:
        for values in reader:
            values = [value.strip() for value in values]
            if any(values):
                yield first, values
            first = above + reader.line_num + 1
    except csv.Error as err:
        refuse(file, first, str(err))


def _csv(file: Path) -> Listed:
    head, columns = next(_csv_rows(file), (1, ()))
    for name in columns:
        if not name or columns.count(name) > 1:
            refuse(file, head, f"the column {name!r} is there twice" if name else "a column has no name")
    if len(columns) == 1 and (other := next((mark for mark in ";\t" if mark in columns[0]), None)):
        refuse(file, head, f"the columns are separated by {other!r}: separate them by commas")
    return Listed(file, tuple(columns), head)


def _below(found: Listed, rows: Rows) -> Rows:
    """Iterate over the rows below the columns' names."""
    next(rows, None)
    for line, values in rows:
        if len(values) != len(found.columns):
            found.refuse(line, f"{len(values)} values for the {len(found.columns)} columns {', '.join(found.columns)}")
        yield line, values


def _jsonl_objects(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(stream_lines(file), 1):
        if not text.strip():
            continue
        try:
            row = parse_json(text, file)
        except JsonError as err:
            refuse(file, line, err.reason)
        if not isinstance(row, dict):
            refuse(file, line, f'{text.strip()[:40]} is not an object, such as {{"path": "a.jpg", "labels": ["cat"]}}')
        yield line, row


def _jsonl(file: Path) -> Listed:
    """Read the columns of a JSONL file: the first row has them all."""
    line, row = next(_jsonl_objects(file), (1, {}))
    return Listed(file, tuple(row), line)


def _jsonl_rows(file: Path, columns: tuple[str, ...]) -> Rows:
    known = frozenset(columns)
    for line, row in _jsonl_objects(file):
        if not row.keys() <= known:
            key = next(key for key in row if key not in known)
            refuse(file, line, f"{key!r} is not in the first line; {did_you_mean(key, columns)}")
        yield line, [row.get(name) for name in columns]
