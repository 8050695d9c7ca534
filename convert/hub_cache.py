"""Hugging Face's cache on disk: `models--OWNER--NAME` with `snapshots/HASH`, whose files are links to `blobs/`."""

import os
from collections.abc import Iterable
from pathlib import Path

from jaxdino.core.errors import UserError


def snapshot_of(path: Path) -> Path:
    """Return the snapshot that `refs/main` names in a repository's cache, else the newest; other paths are unchanged.

    Raises:
      UserError: if the cache holds no snapshot.
    """
    path = path.parent if path.name == "snapshots" else path
    if not (path / "snapshots").is_dir():
        return path
    found = _snapshots(path)
    if not found:
        raise UserError(f"{path}: a folder of Hugging Face's cache without a snapshot: the download did not finish")
    return next((folder for folder in found if folder.name == _main(path)), found[-1])


def said(path: Path) -> list[str]:
    """Return a line that names the snapshot and why it was chosen, if `path` is a snapshot in a cache."""
    repository = path.parent.parent
    if path.parent.name != "snapshots" or not any((repository / name).is_dir() for name in ("refs", "blobs")):
        return []
    why = "refs/main" if _main(repository) == path.name else "not the one of refs/main"
    return [f"snapshot {path.name} ({why}; {len(_snapshots(repository))} in {repository.name})"]


def refuse_broken(paths: Iterable[Path]) -> None:
    """Raise UserError with the names of broken links."""
    broken = [path for path in sorted(paths) if path.is_symlink() and not path.exists()]
    if broken:
        listed = ", ".join(f"{path.name} -> {os.readlink(path)}" for path in broken[:3])
        raise UserError(
            f"{broken[0].parent}: {len(broken)} links are broken ({listed}): their files were moved or "
            f"deleted, or the download did not finish; download them again"
        )


def _main(repository: Path) -> str:
    ref = repository / "refs" / "main"
    return ref.read_text(errors="replace").strip() if ref.is_file() else ""


def _snapshots(repository: Path) -> list[Path]:
    """Return every snapshot, the newest last."""
    folders = (folder for folder in (repository / "snapshots").iterdir() if folder.is_dir())
    return sorted(folders, key=lambda folder: (folder.stat().st_mtime, folder.name))
