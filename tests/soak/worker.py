"""Read mutants in a process of its own: `python -m tests.soak.worker READER SEED FIRST LAST FOLDER`.

Standard output has a line for each event, which the parent reads (`tests.soak.fuzz`):
  ready            the seed files are there
  > N FILE         mutant N is about to be read; FILE was changed
  = N OUTCOME MS   it was read: "fine", "refused" or "skipped", after so many milliseconds
  ! [N, KIND, TEXT]  it failed
  # GROWTH         largest growth of memory so far, in bytes
"""

import json
import os
import resource
import shutil
import sys
import time
import traceback
import unicodedata
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.soak.mutators import mutated

LONGEST_MESSAGE = 12_100
ADDRESS_SPACE = 12 << 30  # bytes: a hostile file must not take the memory of the machine
STATM, HIGH_WATER = Path("/proc/self/statm"), Path("/proc/self/status")


def resident() -> int:
    """Return the memory of this process in bytes."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def reset_peak() -> None:
    """Let the largest memory of this process begin anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the largest memory of this process since `reset_peak`, in bytes."""
    line = next(line for line in HIGH_WATER.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def generator(reader: str, seed: int, number: int) -> np.random.Generator:
    """Return the random numbers of a mutant."""
    return np.random.default_rng([zlib.crc32(reader.encode()), seed, number])


def fault_of(message: str) -> tuple[str, str] | None:
    """Return what is wrong with an error message, (kind, text), or None."""
    if len(message) > LONGEST_MESSAGE:
        return "the message is too long", f"{len(message)} characters: {message[:300]!r}"
    bad = next((one for one in message if one != "\n" and unicodedata.category(one) in ("Cc", "Cs", "Zl")), None)
    return bad and ("a control character in the message", f"{bad!r} in {message[:300]!r}")


def raised(err: Exception) -> tuple[str, str]:
    """Return (kind, text) of an exception that is no answer."""
    last = traceback.extract_tb(err.__traceback__)[-1]
    return f"{type(err).__name__} at {Path(last.filename).name}:{last.lineno}", traceback.format_exc(limit=-12)[-4000:]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what differs after a file was written: node, size, time in nanoseconds. None for a folder."""
    if path.is_dir() and not path.is_symlink():
        return None
    entry = path.lstat()
    return entry.st_ino, entry.st_size, entry.st_mtime_ns


def _reader(name: str) -> Any:
    if name == "faulty":  # without the imports of the others
        from tests.soak import faulty

        return SimpleNamespace(make=faulty.make, read=faulty.read, room=200 << 20, kept=(), fresh=False)
    from tests.soak.readers import READERS

    return READERS[name]


class Cases:
    """The seed files of a reader, and its mutants one after the other in the folder `case`."""

    def __init__(self, name: str, seed: int, folder: Path):
        self.name, self.seed, self.reader, self.folder = name, seed, _reader(name), folder / "case"
        shutil.rmtree(folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.reader.make(self.folder, generator(name, seed, 0))
        found = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        self.files = {path: path.read_bytes() for path in found}
        self.changed = [path for path in found if path.suffix not in self.reader.kept]
        self.size = sum(map(len, self.files.values()))
        self.stamps = {path: _stamp(path) for path in sorted(self.folder.rglob("*"))}

    def restore(self, changed: Path) -> None:
        """Put the seed files back: the one that was changed, and of a reader that writes whatever differs."""
        changes = {changed}
        if self.reader.fresh:
            now = {path: _stamp(path) for path in self.folder.rglob("*")}
            for path in sorted(now.keys() - self.stamps.keys(), reverse=True):  # files before their folders
                path.rmdir() if now[path] is None else path.unlink()
            changes |= {path for path in self.files if now.get(path) != self.stamps[path]}
            for path in self.stamps.keys() - now.keys() - self.files.keys():
                path.mkdir(parents=True, exist_ok=True)
        for path in changes:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.files[path])
            self.stamps[path] = _stamp(path)

    def write(self, number: int) -> Path:
        """Write mutant `number`, and return the changed file."""
        rng = generator(self.name, self.seed, number)
        file = self.changed[int(rng.integers(len(self.changed)))]
        how = rng.random()
        if how < 0.01:
            file.unlink()
        elif how < 0.02:  # another file's content
            file.write_bytes(self.files[self.changed[int(rng.integers(len(self.changed)))]])
        else:
            file.write_bytes(mutated(file.name, self.files[file], rng))
        return file

    def read(self, changed: Path) -> tuple[str, tuple[str, str] | None]:
        """Read the mutant. Return the outcome, and what is wrong, (kind, text), or None."""
        from jaxdino.core.errors import UserError
        from jaxdino.data.bad_images import BadImage

        size = self.size + (changed.stat().st_size if changed.exists() else 0)
        reset_peak()
        before, outcome, fault = resident(), "fine", None
        try:
            self.reader.read(self.folder, changed)
        except (UserError, BadImage) as err:
            outcome, fault = ("refused" if isinstance(err, UserError) else "skipped"), fault_of(str(err))
        except Exception as err:
            outcome, fault = "failed", raised(err)
        self.growth = peak() - before
        if self.growth > 3 * size + self.reader.room:
            fault = fault or ("memory", f"grew by {self.growth >> 20} MB, the files have {size / 2**20:.2f} MB")
        return outcome, fault


def main(name: str, seed: int, first: int, last: int, folder: Path) -> None:
    """Read the mutants `first` to `last`, the last one not included."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    events = os.fdopen(os.dup(1), "w", buffering=1)  # what libraries print does not belong there
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    warnings.simplefilter("ignore")
    cases, most = Cases(name, seed, folder), 0
    cases.read(cases.changed[0])  # imports and compiles
    cases.restore(cases.changed[0])
    events.write("ready\n")
    for number in range(first, last):
        changed = cases.write(number)
        events.write(f"> {number} {changed.relative_to(cases.folder)}\n")
        begin = time.monotonic()
        outcome, fault = cases.read(changed)
        if fault:
            events.write(f"! {json.dumps([number, *fault])}\n")
        events.write(f"= {number} {outcome} {1000 * (time.monotonic() - begin):.1f}\n")
        if cases.growth > most:
            events.write(f"# {(most := cases.growth)}\n")
        cases.restore(changed)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5]))
