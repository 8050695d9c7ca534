"""Files that appear whole or not at all: written beside their place, flushed to disk, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jaxdino.core.errors import UserError


class Drafts:
    """The drafts of one or many files that take their names together, when all of them are written.

    Use as a context manager: on success the files in `retired` go (an older checkpoint's other shards), and
    the drafts are renamed in the order they were written; on any failure every draft is removed, and so
    are the folders that were made here.
    """

    def __init__(self, folder: Path, retired: list[Path] | None = None):
        self.folder, self.retired = folder, retired or []
        self._drafts: dict[Path, Path] = {}
        self._made: list[Path] = []

    def __enter__(self) -> "Drafts":
        self._made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be made: {error.strerror}") from error
        return self

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A draft of `name`, open for writing and reading back."""
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
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # a pipe is no file of ours
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
    """UserError when a file is in the way and `overwrite` is false."""
    found = [str(path) for path in paths if path.exists()]
    if found and not overwrite:
        raise UserError(f"{found[0]}: exists already; choose another place, or overwrite it explicitly")
