"""Results that several processes compute: each writes blocks of them, and the last one joins the blocks.

The blocks lie in `OUT.parts` beside the results, until these are complete. A block is written whole or not at all, so
that a process that was killed goes on with its first missing block when it is called again, with any number of
processes.
"""

import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock

from jaxdino import results
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, parse_json, read_json, write_json
from jaxdino.core.words import few

MADE, LOCK = "made.json", ".lock"
Joined = TypeVar("Joined")
Block = Callable[[Path, range], None]
"""Function that writes a file for places in the list of all images, whole or not at all."""


@dataclasses.dataclass(frozen=True)
class Share:
    """The share of one process.

    Attributes:
      out: the file or folder of the results. shard: (index from 0, number of shares).
      count: of all images. size: images of a block. kind: suffix of the blocks.
    """

    out: str
    shard: tuple[int, int]
    count: int
    size: int
    kind: str = ".jsonl"

    def blocks(self) -> list[Path]:
        """Return the files of all blocks, of every share."""
        return [folder_of(self.out) / f"{number:06d}{self.kind}" for number in range(-(-self.count // self.size))]


def shard_of(text: str) -> tuple[int, int]:
    """Return (index from 0, number) of --shard I/N. Raises UserError for other text."""
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
    """Return the folder of the blocks."""
    return Path(f"{Path(out)}.parts")  # "masks/" has its blocks beside it too


def begun(out: str) -> bool:
    """Return whether a process has begun blocks that are not joined yet."""
    return (folder_of(out) / MADE).exists()


def begin(out: str, made: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder of the blocks, or go on with the one that is there.

    Args:
      made: what the results are made of, as JSON has it. overwrite: delete blocks that were made otherwise.

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


def work(share: Share, block: Block, joined: Callable[[Sequence[Path]], Joined]) -> tuple[str, Joined | None]:
    """Write the missing blocks of a share, and join all blocks if none is missing.

    Args:
      joined: writes the results from the blocks.

    Returns:
      What was done, in words, and what `joined` returned: None if this process did not call it.
    """
    written = write(share, block)
    said = f"part {share.shard[0] + 1}/{share.shard[1]}: {written} blocks of up to {share.size} images written"
    found = join(share, joined)
    if found is None:
        return f"{said}; another process has joined all blocks in {share.out}", None
    missing, result = found
    if missing:
        said += f"; {missing} blocks of other parts are missing: the last part to finish writes {share.out}"
    return said, result


def write(share: Share, block: Block) -> int:
    """Write the missing blocks of a share; return how many that were."""
    index, number = share.shard
    missing = [(place, file) for place, file in list(enumerate(share.blocks()))[index::number] if not file.exists()]
    for place, file in missing:
        block(file, range(place * share.size, min((place + 1) * share.size, share.count)))
    return len(missing)


def join(share: Share, joined: Callable[[Sequence[Path]], Joined]) -> tuple[int, Joined | None] | None:
    """Join the blocks and delete them, if all are there.

    Returns:
      How many blocks are missing, and what `joined` returned; None if another process has joined them.
    """
    folder = folder_of(share.out)
    with FileLock(folder / LOCK):  # which makes the folder again if another process has just deleted it
        if not (folder / MADE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            return None
        files = share.blocks()
        if missing := sum(not file.exists() for file in files):
            return missing, None
        result = joined(files)
        shutil.rmtree(folder, ignore_errors=True)
        return 0, result


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a block of rows."""
    with results.Table(file, ()) as table:
        for row in rows:
            table.add(row)


def rows_of(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Read the rows of blocks. Raises UserError for a damaged one."""
    for file in files:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                try:
                    yield parse_json(line, file)
                except JsonError as err:
                    raise UserError(f"{err}; delete this file and call the command again") from None
