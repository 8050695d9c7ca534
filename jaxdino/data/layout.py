"""Which folders are the splits and which the classes: understand the tree of a data set, or refuse it."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Mapping

from jaxdino.core.errors import UserError
from jaxdino.data.split_names import NONE, ROOT, SPLITS, assign, flag, missing_train, split_of, splits_of
from jaxdino.data.tree import Folder

CONTAINERS = {
    *("image", "images", "img", "imgs", "jpg", "jpgs", "jpeg", "jpegs", "jpegimages", "png"),
    *("pngs", "photo", "photos", "picture", "pictures", "pics", "data", "dataset", "datasets", "raw"),
    *("categories", "objectcategories", "classes", "set", "sets"),
}
"""Words of folders that hold a data set or a split, and are no class."""
BESIDE = {
    *("mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentations", "groundtruth"),
    *("gt"),
}
"""Words of folders that hold what belongs to images."""
TEXT = {
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md"),
    *(".html", ".pdf", ".mat", ".log", ".py", ".ipynb", ".zip", ".gz", ".tar"),
}
"""Suffixes of what stands beside images; a folder of these alone is no class."""
SHOWN = 5  # names in a message
THE_ROOT = f"{flag('train', ROOT)} (the root itself)"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a tree was understood as.

    Attributes:
      splits: {split: the folder of its class folders}.
      called: {split: its folder's path below the root}; "" for the root.
      unused: {what was not used: count}, for `Source.ignored`.
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
      UserError: for a layout that can be read in several ways or in none: what was found, and the flags.
    """
    top, unused = root, Counter()
    while (inner := _wrapped(top, given)) is not None:
        _leave(top, [inner], unused)
        top = inner
    found = _named(top, given)
    if found and "train" not in found:
        raise missing_train(top.path, {split: folder.name for split, folder in found.items()}, top.full)
    if not found:
        for check in (_check_flat, _check_parts, _check_repeated, _check_deeper):
            check(top)
    elif not any(given.values()):
        _check_class_called_train(top, found)
    places = _unwrapped(found or {"train": top}, given, unused)
    _check_classless(top, places["train"])
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
    notes = () if any(given.values()) or places["train"] is top else _unread(top, places)
    return Layout(splits, called, Counter(folders_first), notes)


def _unread(top: Folder, places: Mapping[str, Folder]) -> tuple[str, ...]:
    """A line for each folder that has classes of train and is no split."""
    used = set(map(id, places.values()))
    found = [
        name
        for name, folder in top.full.items()
        if not any(id(inner) in used for inner in folder.walk())
        and len(folder.full.keys() & places["train"].full.keys()) > 1
    ]
    return tuple(
        f"{name}/ has classes of train and is not used: {flag('val', name)}, or test_split, makes it a split"
        for name in found
    )


def text_alone(folder: Folder) -> bool:
    """Whether a folder holds files, and all are of what stands beside images."""
    kinds = folder.kinds()
    return not folder.total and bool(kinds) and kinds.keys() <= TEXT


def _named(top: Folder, given: Mapping[str, str | None]) -> dict[str, Folder]:
    """{split: folder} of those that flags or usual names say; a usual name counts if the folder holds folders."""
    below = _below(top)
    if given.get("train") == ROOT:
        others = {split: name or NONE for split, name in given.items() if split != "train"}
        return {"train": top} | {split: below[name] for split, name in assign((), others, top.path, below).items()}
    holding = [name for name, folder in top.shown.items() if folder.shown]
    full = {split_of(name) for name in holding if top.folders[name].total}
    names = [name for name in holding if top.folders[name].total or split_of(name) not in full]
    return {split: below[name] for split, name in assign(names, given, top.path, below).items()}


def _below(top: Folder) -> dict[str, Folder]:
    """{path below the folder: folder} of all folders in it."""
    return {os.path.relpath(folder.path, top.path): folder for folder in top.walk() if folder is not top}


def _wrapped(top: Folder, given: Mapping[str, str | None]) -> Folder | None:
    """The only folder with images, if it is not a class: dataset/train/..., images/cat/..."""
    if len(top.full) != 1 or any(name in _below(top) for name in given.values() if name not in (None, NONE)):
        return None
    (inner,) = top.full.values()
    if not inner.full or split_of(inner.name):
        return None
    deeper = inner
    while len(deeper.full) == 1 and not _usual_splits(deeper):
        (deeper,) = deeper.full.values()
    return inner if _contains(inner, top) or _usual_splits(deeper) else None


def _usual_splits(folder: Folder) -> dict[str, str]:
    """{name: split} of the usual names among the folders that hold folders with images, if one is for training."""
    found = splits_of(name for name, inner in folder.full.items() if inner.full)
    return found if "train" in found.values() else {}


def words_of(name: str) -> frozenset[str]:
    """The words of a name, in lower case."""
    return frozenset(re.findall(r"[^\W\d_]+", name.casefold()))


def _contains(folder: Folder, above: Folder) -> bool:
    """Whether a folder's name says that it is no class: images, 2750, train in train."""
    return words_of(folder.name) <= CONTAINERS or words_of(folder.name) == words_of(above.name)


def _unwrapped(found: dict[str, Folder], given: Mapping[str, str | None], unused: Counter[str]) -> dict[str, Folder]:
    """The splits without folders in between, as train/images/cat; those without class folders are left out."""
    splits: dict[str, Folder] = {}
    for split in [split for split in SPLITS if split in found]:
        folder, classes, left = found[split], splits["train"].shown if splits else {}, Counter()
        while len(folder.full) == 1 and not folder.full.keys() & classes.keys():
            (inner,) = folder.full.values()
            if not _contains(inner, folder) or not (inner.full or splits):
                break
            _leave(folder, [inner], left)
            folder = inner
        if splits and _classless(folder) and not folder.full.keys() & classes.keys():
            if given.get(split) is not None:
                raise UserError(
                    f"the {split} folder {found[split].path} holds {folder.total:,} images without class folders: sort "
                    f"them into <class>/ as in {splits['train'].path}, or give {flag(split, NONE)}"
                )
        else:
            splits[split] = folder
            unused.update(left)
    return splits


def _classless(folder: Folder) -> bool:
    """Whether a folder has images, but not in class folders."""
    inner = list(folder.full.values())
    return bool(folder.total) and len(inner) <= 1 and all(_contains(one, folder) and not one.full for one in inner)


def _leave(top: Folder, used: list[Folder], unused: Counter[str]) -> None:
    """Count what is in `top` and neither used nor around what is used."""
    kept = set(map(id, used))
    for folder in top.shown.values():
        if any(id(inner) in kept for inner in folder.walk()):
            continue
        files = folder.kinds().total()
        if folder.total:
            flat = ", which has no class folders" if split_of(folder.name) and _classless(folder) else ""
            unused[f"images in the folder {folder.name}/{flat}"] += folder.total
        else:
            what = f"file{'s' if files > 1 else ''} in the" if files else "empty"
            unused[f"{what} folder {folder.name}/"] += files or 1
    unused["hidden"] += top.hidden + len(top.folders) - len(top.shown)
    kinds = Counter(os.path.splitext(path)[1].lower() for path in top.images) + top.others
    for suffix, count in kinds.items():
        unused[f"outside the class folders ({suffix or 'no suffix'})"] += count


def _shown(names: object) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _check_flat(top: Folder) -> None:
    """Raise UserError for train/*.jpg and test/*.jpg, which are not two classes."""
    meant = splits_of(name for name, folder in top.full.items() if not folder.full)
    if len(set(meant.values())) > 1 or (meant and len(meant) == len(top.full)):
        raise _no_classes(top, {f"{name}/": top.full[name].total for name in meant}, list(meant))


def _check_classless(top: Folder, train: Folder) -> None:
    """Raise UserError for a training split without class folders."""
    if _classless(train):
        place = os.path.relpath(next(iter(train.full.values()), train).path, top.path)
        raise _no_classes(top, {"it" if place == "." else f"{place}/": train.total}, [])


def _no_classes(top: Folder, counts: Mapping[str, int], meant: list[str]) -> UserError:
    where = ", ".join(f"{count:,} in {name}" for name, count in counts.items())
    tables = sorted(kind for kind in top.kinds() if kind in (".csv", ".tsv", ".json", ".txt"))
    labels = f"; labels in tables ({', '.join(tables)}) are not read" if tables else ""
    rather = f"; if {' and '.join(meant)} are classes, give {THE_ROOT}" if len(meant) > 1 else ""
    return UserError(
        f"{top.path} has images without class folders: {where}. A classifier reads train/<class>/ and, if there are "
        f"such, val/<class>/ and test/<class>/; self-distillation takes images without labels (data.name=images)"
        f"{rather}{labels}"
    )


def _check_parts(top: Folder) -> None:
    """Raise UserError for images/ with masks/ beside it."""
    words = {name: words_of(name) for name in top.full}
    beside = [name for name in words if words[name] & BESIDE]
    if beside and any(words[name] and words[name] <= CONTAINERS for name in words):
        raise UserError(
            f"{top.path} holds {_shown(words)}, which look like images and their masks, not like classes: images with "
            f"masks are read by data.name=masks, images of class folders with --config.data.root={top.path}/<folder>; "
            f"if these are the classes, give {THE_ROOT}"
        )


def _check_repeated(top: Folder) -> None:
    """Raise UserError where every folder holds (nearly) the same folders: fold1/cat, fold2/cat."""
    inside = {name: set(_inner(folder).full) for name, folder in top.full.items()}
    every = sorted(set().union(*inside.values()))
    if len(inside) < 2 or len(every) < 2 or not all(len(names) > len(every) / 2 for names in inside.values()):
        return
    same = "the same" if all(len(names) == len(every) for names in inside.values()) else "nearly the same"
    found = f"the folders {_shown(inside)} of {top.path} hold {same} {len(every)} folders ({_shown(every)})"
    if len(splits_of(every)) > 1:
        raise UserError(
            f"{found}: splits below classes are not read; the layout is train/<class>/, val/<class>/, test/<class>/"
        )
    raise UserError(
        f"{found}, so they look like splits or variants, not classes. Say which is which with "
        f"{flag('train', next(iter(inside)))} and, if there are such, val_split and test_split; if "
        f"they are the classes, give {THE_ROOT}"
    )


def _check_deeper(top: Folder) -> None:
    """Raise UserError for a folder that holds splits, beside others."""
    for folder in top.full.values():
        if splits := _usual_splits(folder):
            raise UserError(
                f"{folder.path} holds {_shown(splits)}, so it looks like the data set; beside it are "
                f"{_shown(name for name in top.full if name != folder.name)}. Give --config.data.root={folder.path}; "
                f"if these are the classes, give {THE_ROOT}"
            )


def _inner(folder: Folder) -> Folder:
    """The folder, or the one around its class folders: amazon/images for amazon."""
    only = next(iter(folder.full.values())) if len(folder.full) == 1 else folder
    return only if only.full and _contains(only, folder) else folder


def _check_class_called_train(top: Folder, found: Mapping[str, Folder]) -> None:
    """Raise UserError for bus/, car/ and train/ that all hold folders: a split, or a class of that name."""
    others = [name for name, folder in top.full.items() if folder.full and folder not in found.values()]
    if found.keys() == {"train"} and len(others) > 1:
        raise UserError(
            f"{top.path} holds {_shown(others)} beside {found['train'].name}, all with folders of images: if "
            f"{found['train'].name} is the training split, give {flag('train', found['train'].name)}; if all are "
            f"classes, give {THE_ROOT}"
        )
