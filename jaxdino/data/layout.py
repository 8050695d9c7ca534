"""Find which folders of a data set are the splits and which are the classes, or refuse the layout."""

import dataclasses
import os
import shlex
from collections import Counter
from collections.abc import Mapping

from jaxdino.core.errors import UserError
from jaxdino.data.layout_checks import (
    check_class_called_train,
    check_classes,
    check_classless,
    check_masks_of_classes,
    classless,
    contains,
    usual_splits,
)
from jaxdino.data.split_names import NONE, ROOT, SPLITS, assign, flag, missing_train, split_of
from jaxdino.data.tree import Folder

TEXT = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md"),
    *(".html", ".pdf", ".mat", ".log", ".py", ".ipynb", ".zip", ".gz", ".tar", ".rst", ".xlsx"),
}
"""Suffixes of files that accompany images; a folder with only these is not a class."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The splits found in a folder tree.

    Attributes:
      splits: {split: the folder of its class folders}.
      called: {split: path of its folder below the root}; "" for the root.
      unused: {kind of unused file: count}, for `Source.ignored`.
      notes: for `Source.notes`.
    """

    splits: dict[str, Folder]
    called: dict[str, str]
    unused: Counter[str]
    notes: tuple[str, ...] = ()


def understand(root: Folder, given: Mapping[str, str | None]) -> Layout:
    """Find the folders of the splits.

    Args:
      root: the tree.
      given: {split: name of its folder, or None to look for one of a usual name}; see `split_names`.

    Raises:
        UserError: for a layout that is ambiguous or not understood; the message lists what was found, and the flags.
    """
    top, unused = root, Counter()
    while (inner := _wrapped(top, given)) is not None:
        _leave(top, [inner], unused)
        top = inner
    found = _named(top, given)
    if found and "train" not in found:
        raise missing_train(top.path, {split: folder.name for split, folder in found.items()}, top.full)
    if not found:
        check_classes(top)
    elif not any(given.values()):
        check_class_called_train(top, found)
    places = _unwrapped(found or {"train": top}, given, unused)
    check_classless(top, places["train"])
    if not any(given.values()):
        check_masks_of_classes(places["train"])
    if places["train"] is not top:
        _leave(top, list(places.values()), unused)
    splits = {}
    for split, folder in places.items():
        others = [other for other in found.values() if other is not folder]
        classes = {name: inner for name, inner in folder.shown.items() if inner not in others and not text_alone(inner)}
        _leave(folder, [*classes.values(), *others], unused)
        splits[split] = dataclasses.replace(folder, folders=classes)
    called = {split: os.path.relpath(folder.path, root.path) for split, folder in splits.items()}
    folders_first = dict(sorted(unused.items(), key=lambda item: " folder " not in item[0]))
    notes = () if any(given.values()) else _as_classes(top) if places["train"] is top else _unread(top, places)
    return Layout(splits, called, Counter(folders_first), notes)


def _unread(top: Folder, places: Mapping[str, Folder]) -> tuple[str, ...]:
    """Return a line for each folder that has classes of train and is not a split."""
    used = set(map(id, places.values()))
    found = [
        name
        for name, folder in top.full.items()
        if not any(id(inner) in used for inner in folder.walk())
        and len(folder.full.keys() & places["train"].full.keys()) > 1
    ]
    free = [split for split in SPLITS if split not in places]
    more = ", or test_split," if len(free) > 1 else ""
    ways = {name: f"{flag(free[0], name)}{more} makes it a split" if free else "name it to use it" for name in found}
    return tuple(f"{name}/ has classes of train and is not used: {way}" for name, way in ways.items())


def _as_classes(top: Folder) -> tuple[str, ...]:
    """Return a line for each class folder with the name of a split."""
    return tuple(
        f"{name}/ is read as a class, since it has no class folders: if it is a split without labels, move it away"
        for name in top.full
        if split_of(name)
    )


def text_alone(folder: Folder) -> bool:
    """Return whether a folder holds files, and all of them have suffixes in `TEXT`."""
    kinds = folder.kinds()
    return not folder.total and bool(kinds) and kinds.keys() <= TEXT


def _named(top: Folder, given: Mapping[str, str | None]) -> dict[str, Folder]:
    """Return {split: folder} by flags or usual names; a usual name counts only if the folder holds folders."""
    below = _below(top)
    if given.get("train") == ROOT:
        others = {split: name or NONE for split, name in given.items() if split != "train"}
        return {"train": top} | {split: below[name] for split, name in assign((), others, top.path, below).items()}
    holding = [name for name, folder in top.shown.items() if folder.shown]
    full = {split_of(name) for name in holding if top.folders[name].total}
    names = [name for name in holding if top.folders[name].total or split_of(name) not in full]
    join = f", or join all folders, united by class: --config.data.root={shlex.quote(os.path.join(top.path, '*'))}"
    return {split: below[name] for split, name in assign(names, given, top.path, below, join).items()}


def _below(top: Folder) -> dict[str, Folder]:
    """Return {path below the folder: folder} of all folders in it."""
    return {os.path.relpath(folder.path, top.path): folder for folder in top.walk() if folder is not top}


def _wrapped(top: Folder, given: Mapping[str, str | None]) -> Folder | None:
    """Return the only folder with images, if it is not a class: dataset/train/..., images/cat/..."""
    if len(top.full) != 1 or any(name in _below(top) for name in given.values() if name not in (None, NONE)):
        return None
    (inner,) = top.full.values()
    if not inner.full or split_of(inner.name):
        return None
    deeper = inner
    while len(deeper.full) == 1 and not usual_splits(deeper):
        (deeper,) = deeper.full.values()
    again = len(inner.full) == 1 and all(one.full and contains(one, inner) for one in inner.full.values())
    return inner if again or contains(inner, top) or usual_splits(deeper) else None


def _unwrapped(found: dict[str, Folder], given: Mapping[str, str | None], unused: Counter[str]) -> dict[str, Folder]:
    """Return the splits without intermediate folders, as train/images/cat; drop splits without class folders."""
    splits: dict[str, Folder] = {}
    for split in [split for split in SPLITS if split in found]:
        folder, classes, left = found[split], splits["train"].shown if splits else {}, Counter()
        while len(folder.full) == 1 and not folder.full.keys() & classes.keys():
            (inner,) = folder.full.values()
            if not contains(inner, folder) or not (inner.full or splits):
                break
            _leave(folder, [inner], left)
            folder = inner
        if splits and classless(folder) and not folder.full.keys() & classes.keys():
            if given.get(split) is not None:
                raise UserError(
                    f"the {split} folder {found[split].path} holds {folder.total:,} images without class folders: sort "
                    f"them into <class>/ as in {splits['train'].path}, or give {flag(split, NONE)}"
                )
        else:
            splits[split] = folder
            unused.update(left)
    return splits


def _leave(top: Folder, used: list[Folder], unused: Counter[str]) -> None:
    """Count files in `top` that are outside the used folders and their parents."""
    kept = set(map(id, used))
    for folder in top.shown.values():
        if any(id(inner) in kept for inner in folder.walk()):
            continue
        files = folder.kinds().total()
        if folder.total:
            flat = ", which has no class folders" if split_of(folder.name) and classless(folder) else ""
            unused[f"images in the folder {folder.name}/{flat}"] += folder.total
        else:
            what = "file(s) in the" if files else "empty"
            unused[f"{what} folder {folder.name}/"] += files or 1
    unused["hidden"] += top.hidden + len(top.folders) - len(top.shown)
    kinds = Counter(os.path.splitext(path)[1].lower() for path in top.images) + top.others
    for suffix, count in kinds.items():
        unused[f"outside the class folders ({suffix or 'no suffix'})"] += count
