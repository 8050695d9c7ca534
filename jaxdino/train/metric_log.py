"""metrics.jsonl: one JSON object per line, also given to the run's writers; read with care, repaired when damaged."""

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxdino.core.json_file import JsonError, finite, parse_json
from jaxdino.core.metric_names import renamed
from jaxdino.train.progress import Progress
from jaxdino.train.writers import Writers

FILE = "metrics.jsonl"
LINE_BYTES = 1 << 24
NEEDED = {"stage": str, "step": int, "loss": (int, float, type(None)), "time": (int, float)}
Record = dict[str, Any]


def record_of(line: bytes) -> Record | None:
    """Return the record in a line, or None if no run wrote this line."""
    try:
        found = parse_json(line, FILE, dict, max_bytes=LINE_BYTES)
    except JsonError:
        return None
    for name, kind in NEEDED.items():
        if not isinstance(found.get(name), kind) or (name not in found and name != "loss"):
            return None
    return renamed(found) if isinstance(found.get("learning_rates", {}), dict) else None


def records(file: Path) -> list[Record]:
    """Return the records of a file, without the lines that cannot be read; [] if there is no file."""
    return _records(_lines(file.read_bytes())) if file.exists() else []


def _records(lines: Iterable[bytes]) -> list[Record]:
    return [found for line in lines if (found := record_of(line)) is not None]


def _lines(content: bytes) -> list[bytes]:
    return [line for line in content.split(b"\n") if line]


class MetricLog:
    """Write metrics.jsonl, and the same numbers to the writers.

    Args:
      folder: the run's folder.
      at: position of the checkpoint that the run resumes from. Later lines are removed.
      say: called with a line if the file had to be repaired.
      writers: opened here, and given the lines that they lack; by default none.
    """

    def __init__(self, folder: Path, at: Progress, say: Callable[[str], None], writers: Writers | None = None):
        file = folder / FILE
        file.touch()
        found = _mended(file, at, say)
        self.writers = writers or Writers(folder, {})
        self.writers.open(_records(found))
        self._file = file.open("ab")
        self._count, self._sha = len(found), hashlib.sha256(b"".join(line + b"\n" for line in found))

    def mark(self, progress: Progress) -> None:
        """Record the position in the counters of a checkpoint, once everything up to it is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        progress.log_size, progress.log_lines = self._file.tell(), self._count
        progress.log_sha256 = self._sha.hexdigest()

    def write(self, record: Record) -> None:
        """Add a line; `step` counts over the whole run. NaN and inf become null."""
        record = record | {"time": round(time.time(), 3)}
        line = json.dumps(finite(record)).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        self._count += 1
        self._sha.update(line)
        self.writers.write(record)

    def close(self) -> None:
        """Flush and close the file and the writers."""
        try:
            self._file.close()
        finally:
            self.writers.close()


def _mended(file: Path, at: Progress, say: Callable[[str], None]) -> list[bytes]:
    """Cut the file at the checkpoint's position, and leave out what cannot be read; return its lines.

    A file that is not as the checkpoint knows it (shorter, or other bytes) is kept under another name, and replaced by
    those of its lines up to the checkpoint that can be read.
    """
    content = file.read_bytes()
    kept = content[: at.log_size]
    lines = _lines(kept)
    if at.log_sha256:
        sound = hashlib.sha256(kept).hexdigest() == at.log_sha256
    else:  # no checkpoint, or one of an earlier version
        whole = len(kept) == at.log_size and (not kept or kept.endswith(b"\n"))
        sound = whole and len(_records(lines)) == len(lines)
    if sound:
        os.truncate(file, at.log_size)
        return lines
    if not kept.endswith(b"\n") or len(kept) < at.log_size:  # the position is not between two lines: go by the steps
        lines = _lines(content)
    good = [line for line in lines if (found := record_of(line)) and found["step"] <= at.step]
    good = good[: at.log_lines or None]
    aside = _replace(file, good)
    lost = max(at.log_lines - len(good), 0) if at.log_lines else len(lines) - len(good)
    what = (
        f"{lost} of {len(good) + lost} lines up to step {at.step} cannot be read and are left out of it"
        if lost
        else f"it was changed after the run wrote it; its {len(good)} lines up to step {at.step} are taken as they are"
    )
    say(f"WARNING: {file} is damaged: {what} (as it was: {aside})")
    return good


def _replace(file: Path, lines: Sequence[bytes]) -> str:
    """Give the file these lines, and keep the old one under another name, which is returned."""
    beside, aside = file.with_name(file.name + ".part"), set_aside_name(file)
    beside.write_bytes(b"".join(line + b"\n" for line in lines))
    os.replace(file, aside)
    os.replace(beside, file)
    return aside.name


def set_aside_name(file: Path) -> Path:
    """Return a free name for a damaged file: "metrics.jsonl.damaged", "metrics.jsonl.damaged2", ..."""
    numbers = itertools.chain(("",), itertools.count(2))
    names = (file.with_name(f"{file.name}.damaged{number}") for number in numbers)
    return next(name for name in names if not os.path.lexists(name))
