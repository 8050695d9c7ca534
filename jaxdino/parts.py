"""Rows of a table that several processes compute: each writes blocks of them, and the last one joins the blocks.

The blocks lie in `OUT.parts` beside the table, until it is complete. A block is written whole or not at all, so that a
process that was killed goes on with its first missing block when it is called again, with any number of processes.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from jaxdino import results
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, parse_json, read_json, write_json
from jaxdino.core.words import few

MADE, LOCK = "made.json", ".lock"
Rows = Callable[[range], Iterable[Mapping[str, Any]]]
"""Function of places in the list of all images that returns their rows, in this order."""


def shard_of(text: str) -> tuple[int, int]:
    """Return (index from 0, count) of --shard I/N. Raises UserError for other text."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shard {text} must be I/N with I from 1 to N, such as 1/4, 2/4, 3/4 and 4/4")
    return int(found[1]) - 1, int(found[2])


def digest_of(names: Iterable[str]) -> str:
    """Return the SHA-256 of names in their order."""
    found = hashlib.sha256()
    for name in names:
        found.update(os.fsencode(name) + b"\0")
    return found.hexdigest()


def folder_of(out: str) -> Path:
    """Return the folder of the blocks of a table."""
    return Path(f"{out}.parts")


def begin(out: str, made: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder of the blocks, or go on with the one that is there.

    Args:
      made: what the rows are made of, as JSON has it. overwrite: delete blocks that were made otherwise.

    Raises:
      UserError: if the blocks there were made otherwise, with each difference.
    """
    folder = folder_of(out)
    with FileLock(folder / LOCK):  # else a part could delete what another one has just begun; it makes the folder
        if (folder / MADE).exists():
            if not (names := _changed(folder, made)):
                return
            if not overwrite:
                raise UserError(f"{folder} has parts that were made otherwise: {names}. Delete it, or --overwrite")
            for file in folder.iterdir():
                if file.name != LOCK:
                    file.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)  # if another part has joined all blocks meanwhile
        write_json(folder / MADE, dict(made))


def _changed(folder: Path, made: Mapping[str, Any]) -> str:
    """Return how blocks were made otherwise, "" if they were not."""
    try:
        there = read_json(folder / MADE, dict)
    except JsonError as err:
        raise UserError(f"{err}; delete {folder} to begin anew") from None
    names = [name for name in sorted({*there, *made}) if there.get(name) != made.get(name)]
    return few([f"{name} was {there.get(name)}, now {made.get(name)}" for name in names], 4)


def write(out: str, shard: tuple[int, int], count: int, size: int, rows: Rows) -> int:
    """Write the missing blocks of one process; return how many blocks that takes.

    Args:
      shard: (index, number) of the processes. count: of all rows. size: rows of a block.
    """
    folder, written = folder_of(out), 0
    for number, first in enumerate(range(0, count, size)):
        file = folder / _block(number)
        if number % shard[1] == shard[0] and not file.exists():
            with results.Table(file, ()) as table:
                for row in rows(range(first, min(first + size, count))):
                    table.add(row)
            written += 1
    return written


def join(out: str, count: int, size: int, columns: Sequence[str]) -> tuple[int, int] | None:
    """Join the blocks to the table and delete them, if all are there.

    Returns:
      How many blocks are missing and how many rows have an error; None if another process has joined them.
    """
    folder, errors = folder_of(out), 0
    with FileLock(folder / LOCK):  # which makes the folder again if another process has just deleted it
        if not (folder / MADE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            return None
        files = [folder / _block(number) for number in range(-(-count // size))]
        if missing := sum(not file.exists() for file in files):
            return missing, 0
        with results.Table(out, columns) as table:
            for row in _rows(files):
                errors += "error" in row
                table.add(row)
        shutil.rmtree(folder, ignore_errors=True)
        return 0, errors


def _rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                try:
                    yield parse_json(line, file)
                except JsonError as err:
                    raise UserError(f"{err}; delete this file and call the command again") from None


def _block(number: int) -> str:
    return f"{number:06d}.jsonl"
