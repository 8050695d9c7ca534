"""Write results of many images as a table: CSV, JSON or JSONL, to a temporary file that is renamed when complete."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from convert.atomic import AtomicFiles, refuse_existing
from jaxdino.core.errors import UserError

Add = Callable[[dict[str, Any]], None]
SUFFIXES = (".csv", ".json", ".jsonl")


def check(flag: str, file: str | None, overwrite: bool) -> None:
    """Raise UserError for a file that a table cannot be written to; None means no table."""
    if file is None:
        return
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{flag} {file}: give a file that ends in {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"{flag} {file} is a folder: give a file")
    try:
        refuse_existing([path], overwrite)
    except UserError:
        raise UserError(f"{flag} {file} exists already: give another file, or --overwrite") from None


@contextmanager
def opened(file: str | None, columns: Sequence[str], show: Add) -> Iterator[Add]:
    """Yield the function that takes a row: a new table's, or `show` without a file."""
    if file is None:
        yield show
        return
    with Table(file, columns) as table:
        yield table.add


class Table:
    """Write a table. A context manager; each row is written at once. After an error, no file is left.

    Args:
      file: its suffix, one of `SUFFIXES`, sets the format.
      columns: columns of a CSV file. In JSON, each row keeps its own keys.
    """

    def __init__(self, file: str | Path, columns: Sequence[str]):
        self.path, self.columns = Path(file), columns
        self.kind = self.path.suffix.lower()
        self._drafts = AtomicFiles(self.path.absolute().parent)
        self._rows = 0

    def __enter__(self) -> "Table":
        self._drafts.__enter__()
        try:
            self._opened = self._drafts.open(self.path.name)
            self._file: BinaryIO = self._opened.__enter__()
            if self.kind == ".csv":
                self._csv(self.columns)
            elif self.kind == ".json":
                self._write("[")
        except BaseException as err:
            self._drafts.__exit__(type(err), err, None)
            raise
        return self

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row."""
        if self.kind == ".csv":
            self._csv([row.get(name, "") for name in self.columns])
        else:
            text = json.dumps(row, ensure_ascii=False)
            self._write(f"{',' if self._rows else ''}\n  {text}" if self.kind == ".json" else f"{text}\n")
        self._rows += 1

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None and self.kind == ".json":
                self._write("\n]\n")
            self._opened.__exit__(kind, error, trace)
        finally:
            self._drafts.__exit__(kind, error, trace)

    def _csv(self, values: Sequence[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        self._write(text.getvalue())

    def _write(self, text: str) -> None:
        self._file.write(text.encode("utf-8", "backslashreplace"))
