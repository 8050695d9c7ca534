"""Find a config by its name or path: in the current folder first, then among the installed ones."""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean

INSTALLED = Path(__file__).resolve().parents[2] / "configs"
"""Folder of the installed configs."""
SHARED = "common"
"""File shared by the configs; it has no stages."""


class Found(NamedTuple):
    """A config's file, and whether it is an installed one."""

    file: Path
    installed: bool


def find(asked: str) -> Found:
    """Find a config.

    A name, "gradual" or "small/laptop", means "configs/NAME.py". A path is relative to the current folder; if the file
    does not exist, "configs/NAME.py" is the installed one.

    Raises:
      UserError: if there is no such config, with the nearest one.
    """
    path = Path(asked)
    if _is_name(path):
        path = Path("configs") / f"{asked}.py"
    if path.is_file():
        return Found(path, installed=False)
    if path.parts[:1] == ("configs",) and path.suffix == ".py" and ".." not in path.parts:
        installed = INSTALLED.joinpath(*path.parts[1:])
        if installed.is_file():
            return Found(installed, installed=True)
    raise UserError(f"there is no config {asked}; {did_you_mean(asked, _known(asked))}")


def lines() -> list[str]:
    """Return a line for each config that a bare name finds: the name, and the first line of its docstring."""
    files = {name: file for folder in (INSTALLED, Path("configs")) for name, file in _named(folder).items()}
    wide = max(map(len, files), default=0)
    return [f"{name:<{wide}}  {_summary(files[name])}" for name in sorted(files)]


def _summary(file: Path) -> str:
    try:
        doc = ast.get_docstring(ast.parse(file.read_text("utf-8")))
    except (SyntaxError, ValueError) as err:
        return f"(not read: {err})"
    return (doc or "").partition("\n")[0]


def _is_name(path: Path) -> bool:
    """Whether this is a name, not a path: "gradual", "small/laptop"."""
    return not path.suffix and not path.is_absolute() and path.parts[:1] not in ((), ("configs",), ("..",))


def _files(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("[!_]*.py"))


def _named(folder: Path) -> dict[str, Path]:
    """Return the configs of a folder and of the folders in it, by name."""
    files = [*_files(folder), *folder.glob("[!_.]*/[!_]*.py")]
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files if file.stem != SHARED}


def _known(asked: str) -> list[str]:
    """Return names similar to `asked`: files in its folder, files in ./configs, and bare names."""
    path = Path(asked)
    names = sorted({name for folder in (INSTALLED, Path("configs")) for name in _named(folder)})
    if _is_name(path):
        return [f"{asked}.py"] if Path(f"{asked}.py").is_file() else names  # a bare name does not run this file
    folder = path if path.is_dir() else path.parent
    beside = [str(file) for place in (folder, Path("configs")) for file in _files(place)]
    return list(dict.fromkeys([*beside, *(f"configs/{name}.py" for name in names)]))
