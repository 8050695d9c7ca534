"""Find the input images of a command: files, folders, patterns such as 'photos/**/*.jpg'."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.core.words import counted, few
from jaxdino.data.folders import find_images
from jaxdino.data.tree import IMAGE_SUFFIXES


class Input(NamedTuple):
    """An image file. `below`: its path below the folder or pattern that found it, or its name if given directly."""

    path: str
    below: str


def find_inputs(names: Sequence[str], leave_out: str | Path | None = None) -> tuple[list[Input], list[str]]:
    """Return the images named by the arguments, each once, in the given order; those of a folder are sorted by path.

    A folder gives all images in it and below. A pattern (`*`, `?`, `[...]`, `**` for any depth) gives the images that
    it matches, and those in the folders that it matches. A file given by name is always included, even if it is missing
    or not an image: the error is reported when it is read.

    Args:
      leave_out: a folder whose files are skipped, such as results of an earlier call.

    Returns:
      The images, and a line for each folder or pattern in which files were skipped.

    Raises:
      UserError: if a folder or pattern has no images.
    """
    found: dict[str, Input] = {}
    notes = []
    for name in names:
        ignored: Counter[str] = Counter()
        if os.path.isdir(name):
            images = [Input(path, os.path.relpath(path, name)) for path in find_images(Path(name), ignored)]
        elif glob.has_magic(name) and not os.path.exists(name):
            images = _matches(name, ignored)
        else:
            found.setdefault(name, Input(name, os.path.basename(name)))
            continue
        if leave_out is not None:
            outside = [image for image in images if not _is_below(image.path, leave_out)]
            ignored[f"in {leave_out}"] += len(images) - len(outside)
            images = outside
        passed = counted(dict(sorted(ignored.items())))
        if not images and leave_out is not None and ignored[f"in {leave_out}"]:
            raise UserError(f"all images of {name} are in {leave_out}, the folder of the results: give another folder")
        if not images:
            raise UserError(_nothing(name, passed))
        if passed:
            notes.append(f"{name}: {len(images)} images; passed over: {passed}")
        for image in images:
            found.setdefault(image.path, image)
    return list(found.values()), notes


def _matches(pattern: str, ignored: Counter[str]) -> list[Input]:
    start = _fixed(pattern)
    found = set()
    for path in glob.iglob(pattern, recursive=True):
        if os.path.isdir(path):
            found.update(find_images(Path(path), Counter()) if "**" not in pattern else ())
        elif (suffix := os.path.splitext(path)[1].lower()) in IMAGE_SUFFIXES:
            found.add(path)
        else:
            ignored[f"not an image ({suffix or 'no suffix'})"] += 1
    return [Input(path, os.path.relpath(path, start)) for path in sorted(found)]


def _fixed(pattern: str) -> str:
    """Return the folder that contains all matches of a pattern."""
    start = pattern
    while glob.has_magic(start):
        start = os.path.dirname(start)
    return start or "."


def _is_below(path: str, folder: str | Path) -> bool:
    return Path(path).resolve().is_relative_to(Path(folder).resolve())


def _nothing(name: str, passed: str) -> str:
    """Return the message for a folder or pattern without images."""
    if passed or os.path.isdir(name):
        return f"no images in {name}; " + (f"passed over: {passed}" if passed else "it holds no files")
    start = _fixed(name)
    if os.path.isdir(start):
        return f"nothing matches {name!r}: {start} holds {_shown(start)}"
    parent = next(folder for folder in (*Path(start).parents, Path(".")) if folder.is_dir())
    near = did_you_mean(Path(start).name, sorted(path.name for path in parent.iterdir() if path.is_dir()))
    return f"nothing matches {name!r}: there is no folder {start}; {near}"


def _shown(folder: str, first: int = 5) -> str:
    return few(sorted(os.listdir(folder)), first) or "nothing"
