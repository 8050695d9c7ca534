"""Folders that results are written to, which may not exist yet."""

import os
from pathlib import Path

from jaxdino.core.errors import UserError


def check_writable(flag: str, folder: str | Path) -> None:
    """Raise UserError if nothing can be written to a folder, or it cannot be created. `flag` is named in the error."""
    there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{flag} cannot be written: {there} is not a writable folder")
