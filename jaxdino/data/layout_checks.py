"""Refuse ambiguous layouts: report what was found, and the flags that resolve it."""

import os
import re
from collections.abc import Iterable, Mapping

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.split_names import ROOT, flag, split_word, splits_of
from jaxdino.data.tree import Folder

CONTAINERS = {
    *("image", "images", "img", "imgs", "jpg", "jpgs", "jpeg", "jpegs", "jpegimages", "png"),
    *("pngs", "photo", "photos", "picture", "pictures", "pics", "data", "dataset", "datasets", "raw"),
    *("categories", "objectcategories", "classes", "set", "sets"),
}
"""Words in names of folders that hold a data set or a split, not a class."""
BESIDE = {
    *("mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentations"),
    *("groundtruth", "gt", "trimaps"),
}
"""Words in names of folders with files that accompany images."""
PIECES = CONTAINERS | {"part", "batch", "chunk", "shard", "subset", "folder"}
"""Words in names of folders that divide images by number: images_001, images_002."""
TABLES = (".csv", ".tsv", ".json", ".txt", ".xml", ".xlsx", ".mat")
SHOWN = 5  # names listed in a message
THE_ROOT = f"{flag('train', ROOT)} (the root itself)"


def usual_splits(folder: Folder) -> dict[str, str]:
    """Return {name: split} of usual split names among folders that hold image folders, if one is for training."""
    found = splits_of(name for name, inner in folder.full.items() if inner.full)
    return found if "train" in found.values() else {}


def words_of(name: str) -> frozenset[str]:
    """Return the words of a name, in lower case."""
    return frozenset(re.findall(r"[^\W\d_]+", name.casefold()))


def contains(folder: Folder, above: Folder) -> bool:
    """Return whether a folder's name shows that it is not a class: images, 2750, train in train."""
    return words_of(folder.name) <= CONTAINERS or words_of(folder.name) == words_of(above.name)


def classless(folder: Folder) -> bool:
    """Return whether a folder has images, but not in class folders."""
    inner = list(folder.full.values())
    return bool(folder.total) and len(inner) <= 1 and all(contains(one, folder) and not one.full for one in inner)


def _shown(names: Iterable[str]) -> str:
    return few(list(names), SHOWN)


def check_classes(top: Folder) -> None:
    """Raise UserError if the folders of a root without splits do not look like classes."""
    for check in (_check_flat, _check_parts, _check_copies, _check_repeated, _check_deeper):
        check(top)


def _check_flat(top: Folder) -> None:
    """Refuse images directly in train/ and test/, or in part_1/ and part_2/, which are not two classes."""
    flat = {name: words_of(name) for name, folder in top.full.items() if not folder.full or classless(folder)}
    meant = splits_of(flat)
    pieces = (
        len(flat) == len(top.full) > 1 and len(set(flat.values())) == 1 and all(map(PIECES.intersection, flat.values()))
    )
    worded = len(flat) == len(top.full) > 1 and all(map(split_word, flat))  # train_red, train_nir
    if len(set(meant.values())) > 1 or (meant and len(meant) == len(top.full)) or pieces or worded:
        names = list(flat if worded else meant or flat)
        raise _no_classes(top, {f"{name}/": top.full[name].total for name in names}, names)


def check_classless(top: Folder, train: Folder) -> None:
    """Raise UserError for a training split without class folders."""
    if classless(train):
        place = os.path.relpath(next(iter(train.full.values()), train).path, top.path)
        raise _no_classes(top, {"it" if place == "." else f"{place}/": train.total}, [])


def _no_classes(top: Folder, counts: Mapping[str, int], names: list[str]) -> UserError:
    where = _shown(f"{count:,} in {name}" for name, count in counts.items())
    tables = [kind for kind in TABLES if kind in top.kinds()]
    labels = f"; labels in tables ({', '.join(tables)}) are not read" if tables else ""
    rather = f"; if {_shown(names)} are the classes, give {THE_ROOT}" if len(names) > 1 else ""
    return UserError(
        f"{top.path} has images without class folders: {where}. A classifier reads train/<class>/ and, if there are "
        f"such, val/<class>/ and test/<class>/; self-distillation takes images without labels (data.name=images)"
        f"{rather}{labels}"
    )


def _check_parts(top: Folder) -> None:
    """Refuse images with a folder of masks beside them."""
    if names := _with_masks(top):
        raise UserError(
            f"{top.path} holds {_shown(names)}, which look like images and their masks, not like classes: images with "
            f"masks are read by data.name=masks, images of class folders with --config.data.root={top.path}/<folder>; "
            f"if these are the classes, give {THE_ROOT}"
        )


def _with_masks(folder: Folder) -> list[str]:
    """Return the names of the images/ and masks/ folders in a folder, or none unless both exist."""
    words = {name: words_of(name) for name in folder.full}
    beside = [name for name in words if words[name] & BESIDE]
    images = [name for name in words if words[name] and words[name] <= CONTAINERS]
    return [*images, *beside] if images and beside else []


def check_masks_of_classes(train: Folder) -> None:
    """Raise UserError if class folders hold masks beside their images: cat/images, cat/masks."""
    found = [f"{name}/{'|'.join(parts)}" for name, folder in train.full.items() if (parts := _with_masks(folder))]
    if found:
        raise UserError(
            f"{len(found)} class folder(s) of {train.path} hold masks beside their images ({_shown(found)}), which "
            f"would be read as images of the class: move them away, or give {flag('train', 'NAME')} ('.' for the root) "
            "to read them all"
        )


def _check_copies(top: Folder) -> None:
    """Refuse a folder that repeats its sibling folders: flowers/rose and flowers/flowers/rose."""
    for name, folder in top.full.items():
        others = top.full.keys() - {name}
        again = others & _inner(folder).full.keys()
        if len(others) > 1 and len(again) > len(others) / 2:
            raise UserError(
                f"{folder.path} holds folders of the same names as those beside it ({_shown(sorted(again))}), so it "
                "looks like a copy of the data set, not a class. Move it away, or give "
                f"--config.data.root={folder.path}; if all of these are classes, give {THE_ROOT}"
            )


def _check_repeated(top: Folder) -> None:
    """Refuse folders that hold (nearly) the same sub-folders: fold1/cat, fold2/cat."""
    inside = {name: set(_inner(folder).full) for name, folder in top.full.items()}
    every = sorted(set().union(*inside.values()))
    if len(inside) < 2 or len(every) < 2:
        return
    shares = [len(names) / len(every) for names in inside.values()]
    common = all(sum(name in names for names in inside.values()) > len(inside) / 2 for name in every)
    if not (all(share > 1 / 2 for share in shares) or (common and sum(shares) > len(shares) / 2)):
        return
    if any(map(_with_masks, top.full.values())):
        return  # reported by `check_masks_of_classes`
    same = "the same" if all(len(names) == len(every) for names in inside.values()) else "nearly the same"
    found = f"the folders {_shown(inside)} of {top.path} hold {same} {len(every)} folders ({_shown(every)})"
    if len(splits_of(every)) > 1:
        first = next(iter(top.full.values()))
        alone = f"; each may be a data set of its own: --config.data.root={first.path}" if usual_splits(first) else ""
        raise UserError(
            f"{found}: splits below classes are not read; the layout is train/<class>/, val/<class>/, test/<class>/"
            f"{alone}"
        )
    raise UserError(
        f"{found}, so they look like splits, variants, patients or places, not classes. Say which is which with "
        f"{flag('train', next(iter(inside)))} and, if they exist, val_split and test_split; if {_shown(every)} are "
        f"the classes in each, make one folder of each class; if {_shown(inside)} are the classes, give {THE_ROOT}"
    )


def _inner(folder: Folder) -> Folder:
    """Return the folder that holds the class folders: amazon/images for amazon, otherwise the folder itself."""
    only = next(iter(folder.full.values())) if len(folder.full) == 1 else folder
    return only if only.full and contains(only, folder) else folder


def _check_deeper(top: Folder) -> None:
    """Refuse a folder that holds splits, beside other folders."""
    for folder in top.full.values():
        for inner in folder.walk():
            if splits := usual_splits(inner):
                raise UserError(
                    f"{inner.path} holds {_shown(splits)}, so it looks like the data set; the folders of {top.path} "
                    f"are {_shown(top.full)}. Give --config.data.root={inner.path}; if these are the classes, give "
                    f"{THE_ROOT}"
                )


def check_class_called_train(top: Folder, found: Mapping[str, Folder]) -> None:
    """Raise UserError if bus/, car/ and train/ all hold folders: train is a split or a class."""
    others = [name for name, folder in top.full.items() if folder.full and folder not in found.values()]
    if found.keys() == {"train"} and len(others) > 1:
        train = found["train"].name
        raise UserError(
            f"{top.path} holds {_shown(others)} beside {train}, all with folders of images: if {train} is the training "
            f"split, give {flag('train', train)} (and val_split, test_split for others); if all are classes, give "
            f"{THE_ROOT}"
        )
