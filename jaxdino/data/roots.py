"""The folders that `data.root` names: one, several separated by commas, or patterns such as 'DIR/train.X*'."""

import glob
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.split_names import near_names

SHOWN = 5  # names listed in a message


def as_text(root: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None) -> str | None:
    """Return a root as one text; several are joined by commas. Raise UserError for a list with a comma in a name."""
    if root is None or isinstance(root, str | os.PathLike):
        return None if root is None else os.fspath(root)
    names = [os.fspath(one) for one in root]
    if odd := [name for name in names if "," in name and len(names) > 1]:
        raise UserError(f"data.root={names}: {odd[0]!r} has a comma in its name, which separates roots: rename it")
    return ",".join(names)


def roots_of(root: str | None) -> list[str]:
    """Return the paths that a root names, in the given order; the matches of a pattern are sorted by name.

    A path that exists is taken as it is, even if its name has a comma or the signs of a pattern.

    Raises:
      UserError: for a pattern that nothing matches.
    """
    if not root or os.path.exists(os.path.expanduser(root)):
        return [os.path.expanduser(root)] if root else []
    found = []
    for name in (os.path.expanduser(part.strip()) for part in root.split(",")):
        if not glob.has_magic(name) or os.path.exists(name):
            found.append(name)
            continue
        matches = sorted(path for path in glob.glob(name, recursive=True) if not _hidden(path))
        if not matches:
            start = name
            while glob.has_magic(start):
                start = os.path.dirname(start)
            there = few(sorted(os.listdir(start or ".")), SHOWN) if os.path.isdir(start or ".") else "no such folder"
            raise UserError(f"data.root: nothing matches {name!r}; found in {start or '.'}: {there or 'nothing'}")
        found += matches
    return found


def existing_roots(root: str | None, source: str) -> list[Path]:
    """Return the folders that a root names, absolute if several; files that a pattern matches are left out.

    Raises:
      UserError: if none is given, or one is missing or not a folder.
    """
    given = roots_of(root)
    folders = [path for path in given if os.path.isdir(path)]
    if len(folders) > 0 and glob.has_magic(root or ""):
        given = folders
    found = [existing(path, source) for path in given or [root]]
    return found if len(found) < 2 else [Path(os.path.abspath(path)) for path in found]


def existing(root: str | None, source: str) -> Path:
    """Return the root of a source. Raise UserError if it is not given or is not a folder."""
    if not root:
        raise UserError(f"the data source {source!r} needs a folder of images: --config.data.root=DIR")
    top = Path(root).expanduser()
    if top.is_dir():
        return top
    if top.exists():
        raise UserError(f"the data root {top} is a file; it must be a folder of images")
    parent = next(folder for folder in (*top.parents, Path(".")) if folder.is_dir())
    near = near_names(top.name, [path.name for path in visible_folders(parent)])
    hint = f"; nearest in {parent}: {near}" if near else f"; {parent} holds no folders"
    raise UserError(f"the data root {top} does not exist{hint}")


def visible_folders(folder: Path) -> list[Path]:
    """Return the sorted sub-folders of a folder, without hidden ones."""
    hidden = (".", "__")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(hidden))


def check_apart(roots: Sequence[Path]) -> None:
    """Raise UserError if two roots are the same folder, or one lies in another: their images would count twice."""
    real = sorted((os.path.join(os.path.realpath(root), ""), str(root)) for root in roots)
    for (outer, name), (inner, other) in itertools.pairwise(real):
        if inner.startswith(outer):
            same = "are the same folder" if inner == outer else f"overlap: {other} lies in {name}"
            raise UserError(
                f"data.root names the same images twice: {name} and {other} {same}. Name each folder of images once"
            )


def _hidden(path: str) -> bool:
    return os.path.basename(path.rstrip(os.sep)).startswith((".", "__"))
