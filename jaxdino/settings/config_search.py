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

    A bare name, "gradual", means "configs/gradual.py". A path is relative to the current folder; if the file does not
    exist, "configs/NAME.py" is the installed one.

    Raises:
      UserError: if there is no such config, with the nearest one.
    """
    path = Path(asked)
    if len(path.parts) == 1 and not path.suffix:
        path = Path("configs") / f"{asked}.py"
    if path.is_file():
        return Found(path, installed=False)
    if path.parent == Path("configs") and path.suffix == ".py" and (INSTALLED / path.name).is_file():
        return Found(INSTALLED / path.name, installed=True)
    raise UserError(f"there is no config {asked}; {did_you_mean(asked, _known(asked))}")


def lines() -> list[str]:
    """Return a line for each config that a bare name finds: the name, and the first line of its docstring."""
    files = {file.stem: file for folder in (INSTALLED, Path("configs")) for file in _files(folder)}
    files.pop(SHARED, None)
    wide = max(map(len, files), default=0)
    return [f"{name:<{wide}}  {_summary(files[name])}" for name in sorted(files)]


def _summary(file: Path) -> str:
    try:
        doc = ast.get_docstring(ast.parse(file.read_text("utf-8")))
    except (SyntaxError, ValueError) as err:
        return f"(not read: {err})"
    return (doc or "").partition("\n")[0]


def _files(folder: Path) -> Iterable[Path]:
    return sorted(folder.glob("[!_]*.py"))


def _known(asked: str) -> list[str]:
    """Return names similar to `asked`: files in its folder, files in ./configs, and bare names."""
    path = Path(asked)
    names = sorted({file.stem for folder in (INSTALLED, Path("configs")) for file in _files(folder)} - {SHARED})
    if len(path.parts) == 1 and not path.suffix:
        return [f"{asked}.py"] if Path(f"{asked}.py").is_file() else names  # a bare name does not run this file
    folder = path if path.is_dir() else path.parent
    beside = [str(file) for place in (folder, Path("configs")) for file in _files(place)]
    return list(dict.fromkeys([*beside, *(f"configs/{name}.py" for name in names)]))
