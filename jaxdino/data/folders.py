"""Lists the image files of a folder, of classes or of anything, and says clearly what is wrong with it."""

import dataclasses
import os
from collections import Counter
from pathlib import Path

from jaxdino.core.errors import UserError
from jaxdino.core.rules import nearest

COMMON_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
RARE_SUFFIXES = (".jpe", ".jfif", ".jp2", ".apng", ".avif", ".dib", ".ppm", ".pgm", ".pbm", ".pnm")
IMAGE_SUFFIXES = frozenset(COMMON_SUFFIXES + RARE_SUFFIXES)
USUAL_NAMES = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a folder holds: `files[split][class]` is a sorted list of paths."""

    root: str
    files: dict[str, dict[str, list[str]]]
    ignored: dict[str, int]


def list_folder(root: str | None, val_split: str | None = None, test_split: str | None = None) -> Listing:
    """Lists root/{train,val,test}/<class>/** or, without such sub-folders, root/<class>/** as "train".

    Hidden files and folders, loose files beside the class folders and files that are no images are passed
    over and counted. Files and classes are sorted by name, so the listing is the same on every machine.

    Raises:
      UserError: as `jaxdino.data.sources.folder` says.
    """
    top = existing(root, "folder")
    ignored: Counter[str] = Counter()
    places = split_folders(top, val_split, test_split)
    if places and "train" not in places:
        found = ", ".join(sorted(path.name for path in places.values()))
        raise UserError(f"{top} has no train folder; found: {found}. Add train/<class>/ beside them")
    files = {name: _classes(path, ignored) for name, path in (places or {"train": top}).items()}
    _check_classes(top, files)
    return Listing(str(top), files, dict(+ignored))


def list_images(roots: str | None) -> tuple[str, list[str], dict[str, int]]:
    """All images at any depth below one folder, or below several that commas separate; each file once.

    Hidden files and folders and files that are no images are passed over and counted. The folders are listed in
    the order given, the files of each sorted by name.

    Returns:
      the folder that all lie in, the paths, and what was passed over.

    Raises:
      UserError: a folder that is missing, or without images.
    """
    whole = roots and Path(roots).expanduser().is_dir()  # a folder's own name may hold a comma
    names = [roots] if whole else [name.strip() for name in (roots or "").split(",")]
    ignored: Counter[str] = Counter()
    found: dict[str, None] = {}
    tops = [existing(name, "images") for name in names]
    for top in tops:
        paths = find_images(top, ignored)
        if not paths:
            passed = ", ".join(f"{count} {what}" for what, count in (+ignored).items()) or "nothing"
            raise UserError(f"no images under {top}; passed over: {passed}")
        found |= dict.fromkeys(paths)
    return os.path.commonpath(tops), list(found), dict(+ignored)


def existing(root: str | None, source: str) -> Path:
    if not root:
        raise UserError(f"the data source {source!r} needs a folder of images: --config.data.root=DIR")
    top = Path(root).expanduser()
    if top.is_dir():
        return top
    if top.exists():
        raise UserError(f"the data root {top} is a file; it must be a folder of images")
    parent = next(folder for folder in (*top.parents, Path(".")) if folder.is_dir())
    near = nearest(top.name, [path.name for path in visible_folders(parent)])
    hint = f"; nearest in {parent}: {', '.join(near)}" if near else f"; {parent} holds no folders"
    raise UserError(f"the data root {top} does not exist{hint}")


def visible_folders(folder: Path) -> list[Path]:
    hidden = (".", "__")
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(hidden))


def split_folders(top: Path, val_split: str | None, test_split: str | None) -> dict[str, Path]:
    """{split: folder} of the sub-folders that are splits; empty where the sub-folders are the classes.

    A sub-folder is a split only if it holds folders itself: a class may be called "train" too.
    """
    folders = {path.name: path for path in visible_folders(top)}
    candidates = dict(USUAL_NAMES)
    for split, name in (("val", val_split), ("test", test_split)):
        if name is not None and name not in folders:
            near = ", ".join(nearest(name, folders)) or "no folders"
            raise UserError(f"{split}_split is {name!r}, which is not a folder of {top}; found: {near}")
        if name is not None:
            candidates[split] = (name,)
    places = {}
    for split, names in candidates.items():
        found = [name for name in names if name in folders and visible_folders(folders[name])]
        if len(found) > 1:
            raise UserError(f"{top} has both {' and '.join(found)}: name the right one with {split}_split")
        if found:
            places[split] = folders[found[0]]
    return places


def _classes(folder: Path, ignored: Counter[str]) -> dict[str, list[str]]:
    """{class name: sorted image paths}; adds what it passes over to `ignored`."""
    for path in folder.iterdir():
        if path.name.startswith(".") or (path.is_dir() and path.name.startswith("__")):
            ignored["hidden"] += 1
        elif not path.is_dir():
            ignored["outside the class folders"] += 1
    return {path.name: find_images(path, ignored) for path in visible_folders(folder)}


def find_images(folder: Path, ignored: Counter[str]) -> list[str]:
    """All images below a class folder, sorted by path."""
    found = []
    for here, folders, names in os.walk(folder, onerror=_unreadable):
        ignored["hidden"] += sum(name.startswith(".") for name in (*folders, *names))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                found.append(os.path.join(here, name))
            else:
                ignored["not an image"] += 1
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise UserError(f"cannot list {error.filename}: {error.strerror}") from error


def _check_classes(top: Path, files: dict[str, dict[str, list[str]]]) -> None:
    """Raises UserError for a layout that cannot be trained on."""
    classes = list(files["train"])
    if not any(files["train"].values()):
        what = f"the class folders {', '.join(classes[:5])}" if classes else "no class folders"
        raise UserError(f"no images under {top}: found {what}; expected <class>/<image> in it or in its train/")
    for split, found in files.items():
        where = top if len(files) == 1 else f"{top} ({split})"
        empty = [name for name, paths in found.items() if not paths]
        if empty:
            raise UserError(
                f"no images in the class folder(s) {', '.join(empty)} of {where}; images are in: "
                f"{', '.join(name for name in found if name not in empty) or 'none'}. "
                f"Remove the empty folder(s){_deeper(top, found)}"
            )
        new = [name for name in found if name not in classes]
        if new:
            near = ", ".join(nearest(new[0], classes))
            raise UserError(f"{split} has the class(es) {', '.join(new)} that train lacks; nearest: {near}")
    if len(classes) < 2:
        raise UserError(
            f"only one class, {classes[0]!r}, under {top}; a classifier needs two{_deeper(top, files['train'])}"
        )


def _deeper(top: Path, classes: dict[str, list[str]]) -> str:
    """A hint for a root that was given one level too high."""
    full = [name for name, paths in classes.items() if paths]
    inner = top / full[0] if len(full) == 1 else None
    if inner is None or not inner.is_dir() or len(visible_folders(inner)) < 2:
        return ""
    return f", or point the root one level down, at {inner}, which holds folders itself"
