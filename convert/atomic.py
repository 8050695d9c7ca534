"""Atomic writes: files and folders are written under a temporary name, then renamed."""

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jaxdino.core.errors import UserError
from jaxdino.core.writable import check_writable


class AtomicFiles:
    """Temporary files that are renamed to their final names together, once all of them are written.

    Use as a context manager. On success, the files in `retired` (an older checkpoint's other shards) are deleted
    and the temporary files are renamed in the order they were written. On failure, every temporary file is removed,
    and so are the folders that were created here.
    """

    def __init__(self, folder: Path, retired: list[Path] | None = None):
        self.folder, self.retired = folder, retired or []
        self._drafts: dict[Path, Path] = {}
        self._made: list[Path] = []

    def __enter__(self) -> "AtomicFiles":
        self._made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be created: {error.strerror}") from error
        return self

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a temporary file for `name`, for writing and reading back."""
        draft = self.folder / f".{name}.{os.getpid()}.part"
        self._drafts[self.folder / name] = draft
        with open(draft, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def __exit__(self, kind, error, _) -> None:
        try:
            if kind is None:
                self._publish()
        finally:
            for draft in self._drafts.values():
                draft.unlink(missing_ok=True)
            for folder in self._made:
                if not any(folder.iterdir()):
                    folder.rmdir()
        if isinstance(error, OSError) and not isinstance(
            error, BrokenPipeError
        ):  # a broken pipe is not one of our files
            raise UserError(f"{self.folder}: cannot be written: {error.strerror or error}") from error

    def _publish(self) -> None:
        for old in self.retired:
            old.unlink(missing_ok=True)
        for place, draft in self._drafts.items():
            os.replace(draft, place)
        if os.name == "posix":
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def refuse_existing(paths: list[Path], overwrite: bool) -> None:
    """Raise UserError if one of the files exists and `overwrite` is false."""
    found = [str(path) for path in paths if path.exists()]
    if found and not overwrite:
        raise UserError(f"{found[0]}: already exists; choose another path, or overwrite it explicitly")


def refuse_occupied(folder: str | Path, overwrite: bool, ours: Callable[[str], bool]) -> None:
    """Raise UserError unless the folder is free and can be written, or may be overwritten and holds only our files.

    Args:
      ours: returns whether we write an entry of that name here; anything else belongs to the user and stays.
    """
    folder = Path(folder)
    try:
        check_writable(str(folder), folder)
        if not folder.exists():
            return
    except OSError as err:
        raise UserError(f"{folder}: not a valid folder: {err.strerror or err}") from err
    if not folder.is_dir():
        raise UserError(f"{folder} already exists and is a file; give another folder")
    names = sorted(entry.name for entry in folder.iterdir())
    if names and not overwrite:
        raise UserError(f"{folder} already exists and is not empty; give another --out, or --overwrite")
    if foreign := [name for name in names if not ours(name)]:
        raise UserError(
            f"{folder} holds {', '.join(foreign[:5])}, which we did not write and would delete: move it away, "
            f"or give another folder"
        )


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` when the block ends without an error.

    The old folder is first renamed, then deleted after the replacement, so one of the two always exists except in
    the instant between two renames. The next run cleans up what a killed run left behind.
    """
    try:
        folder = Path(folder).resolve()
        folder.parent.mkdir(parents=True, exist_ok=True)
        _mend(folder)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".part", dir=folder.parent))
    except (OSError, ValueError) as err:  # ValueError: a character that is not allowed in a name
        raise UserError(f"{folder}: cannot be created: {getattr(err, 'strerror', None) or err}") from err
    try:
        yield beside
        beside.chmod(0o755)
        _swap(beside, folder)
    except OSError as err:
        raise UserError(f"{folder}: cannot be written: {err.strerror or err}") from err
    except KeyboardInterrupt:  # Orbax's threads keep writing for a moment; they have ended at exit
        atexit.register(shutil.rmtree, beside, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _swap(new: Path, folder: Path) -> None:
    old = new.with_suffix(".old")
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _mend(folder: Path) -> None:
    """Clean up after a killed run: restore the old folder if nothing replaced it, delete everything else."""
    name = re.compile(rf"\.{re.escape(folder.name)}-[a-z0-9_]{{8}}\.(part|old)")
    for entry in sorted(folder.parent.iterdir()):
        if not name.fullmatch(entry.name) or entry.is_symlink() or not entry.is_dir():
            continue
        if entry.suffix == ".old" and not folder.exists():
            os.replace(entry, folder)
        else:
            shutil.rmtree(entry, ignore_errors=True)
