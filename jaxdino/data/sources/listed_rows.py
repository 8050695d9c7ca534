"""Read a CSV or JSONL file as rows of named values, each with its line, for messages."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, parse_json
from jaxdino.core.rules import did_you_mean
from jaxdino.data.split_names import near_names

KINDS = (".csv", ".jsonl")
COMMENT = "#"


class ListedRows(NamedTuple):
    """The content of a file.

    Attributes:
      line: the line of the columns' names, from 1; in JSONL that of the first row.
      rows: (line, values by column) of each row; in JSONL a row may lack some columns.
    """

    file: Path
    columns: tuple[str, ...]
    line: int
    rows: list[tuple[int, Mapping[str, Any]]]

    def refuse(self, line: int, why: str) -> NoReturn:
        """Raise UserError with the file and a line."""
        refuse(self.file, line, why)


def read_rows(root: str | None) -> ListedRows:
    """Read a file. Blank lines do not count, nor do lines of a CSV file that begin with # before the columns.

    Raises:
      UserError: with file and line, for a file that is missing, of another kind, not UTF-8, or damaged.
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
        f"data.root={root} is not a manifest: give a file, --config.data.root=FILE.csv or FILE.jsonl{found}"
    )


def lines_of(file: Path) -> list[str]:
    """Return the lines of a UTF-8 file with their ends, without a byte order mark.

    Raises:
      UserError: with file and line, for a file that cannot be read or is not UTF-8.
    """
    try:
        data = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as err:
        raise UserError(f"{file} cannot be read: {err.strerror}") from None
    try:
        return list(io.StringIO(data.decode("utf-8"), newline=""))
    except UnicodeDecodeError as err:
        *before, last = list(io.StringIO(data[: err.start].decode("utf-8") + ".", newline=""))
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        why = f"byte 0x{data[err.start]:02x} at column {len(last)} is not UTF-8{' (but UTF-16)' if wide else ''}"
        refuse(file, len(before) + 1, f"{why}: save the file as UTF-8")


def _csv(file: Path) -> ListedRows:
    """Read a CSV file. The line of a row is its first one."""
    lines, found = lines_of(file), []
    above = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith(COMMENT)), len(lines))
    reader, first = csv.reader(lines[above:], strict=True, skipinitialspace=True), above + 1
    try:
        for values in reader:
            if any(value.strip() for value in values):
                found.append((first, [value.strip() for value in values]))
            first = above + reader.line_num + 1
    except csv.Error as err:
        refuse(file, first, str(err))
    if not found:
        return ListedRows(file, (), 1, [])
    (head, columns), rows = found[0], found[1:]
    for name in columns:
        if not name or columns.count(name) > 1:
            refuse(file, head, f"the column {name!r} is there twice" if name else "a column has no name")
    if len(columns) == 1 and (other := next((mark for mark in ";\t" if mark in columns[0]), None)):
        refuse(file, head, f"the columns are separated by {other!r}: separate them by commas")
    for line, values in rows:
        if len(values) != len(columns):
            refuse(file, line, f"{len(values)} values for the {len(columns)} columns {', '.join(columns)}")
    return ListedRows(file, tuple(columns), head, [(line, dict(zip(columns, one, strict=True))) for line, one in rows])


def _jsonl(file: Path) -> ListedRows:
    """Read a JSONL file, of which the first row has all columns."""
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for line, text in enumerate(lines_of(file), 1):
        if not text.strip():
            continue
        try:
            row = parse_json(text, file)
        except JsonError as err:
            refuse(file, line, err.reason)
        if not isinstance(row, dict):
            refuse(file, line, f'{text.strip()[:40]} is not an object, such as {{"path": "a.jpg", "labels": ["cat"]}}')
        for key in row:
            if rows and key not in rows[0][1]:
                refuse(file, line, f"{key!r} is not in the first line; {did_you_mean(key, rows[0][1])}")
        rows.append((line, row))
    return ListedRows(file, tuple(rows[0][1]), rows[0][0], rows) if rows else ListedRows(file, (), 1, [])
