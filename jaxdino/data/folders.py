"""List the image files of a folder, by split and class or all together, and explain what is wrong with the folder."""

import dataclasses
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from jaxdino.core.errors import UserError
from jaxdino.core.words import counted, few
from jaxdino.data.joined import joined
from jaxdino.data.layout import Layout, text_alone, understand
from jaxdino.data.reasons import foreign
from jaxdino.data.roots import check_apart, existing_roots, visible_folders
from jaxdino.data.split_names import NONE, assign, flag, missing_train, near_names
from jaxdino.data.tree import Folder, scan

MASKS = ("_mask.", "_seg.", "_segmentation.", "_gt.")  # common endings of mask file names
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
SHOWN = 5  # names listed in a message


@dataclasses.dataclass(frozen=True)
class Listing:
    """The contents of a data folder.

    Attributes:
      files: `files[split][class]` is a sorted list of paths.
      called: {split: path of its folder below the root}, "." for the root.
      ignored: {kind of skipped file: count}.
      notes: messages for the user, one line each.
    """

    root: str
    files: dict[str, dict[str, list[str]]]
    called: dict[str, str]
    ignored: dict[str, int]
    notes: tuple[str, ...] = ()


def list_folder(root: str | None, given: Mapping[str, str | None] | None = None, classes: str = "top") -> Listing:
    """List <split>/<class>/** or, without split folders, <class>/** as "train". See docs/data.md for the layouts.

    Several roots are joined (see `joined`).

    Hidden files and folders, files beside the class folders and files that are not images are skipped and counted.
    Files and classes are sorted by name, so the listing is the same on every machine.

    Args:
      given: {split: name of its folder}; None looks for a usual name.
      classes: "top": the top-level folders are the classes; "leaf": every folder that holds images is a class.

    Raises:
      UserError: see `sources.folder.folder`.
    """
    roots = existing_roots(root, "folder")
    top, several = Path(os.path.commonpath(roots)), len(roots) > 1
    layout = joined(roots, given or {}) if several else understand(scan(str(top)), given or {})
    ignored = layout.unused
    files = {}
    for split, folder in layout.splits.items():
        places = folder.folders if classes == "top" else leaves(folder)
        _check_empty(split, folder.path, places)
        files[split] = {name: _images(place, classes) for name, place in places.items()}
        for inner in folder.folders.values():
            _count(inner, ignored)
    _check_classes(str(top), files, layout)
    found = files["train"]
    notes = [*_nested(layout.splits, classes), *_lacking(files), *_similar(found), *_bands(found), *_mask_files(found)]
    notes += layout.notes
    return Listing(str(top), files, layout.called, dict(+ignored), tuple(notes))


def list_images(roots: str | None) -> tuple[str, list[str], dict[str, int]]:
    """List all images at any depth below one folder, or below several (see `roots`); each file once.

    Hidden files and folders and files that are not images are skipped and counted. The folders are listed in the
    order given, the files of each sorted by name.

    Returns:
      The common parent folder, the paths, and the counts of skipped files.

    Raises:
      UserError: if a folder is missing or has no images.
    """
    ignored: Counter[str] = Counter()
    found: dict[str, None] = {}
    tops = existing_roots(roots, "images")
    check_apart(tops)
    for top in tops:
        paths = find_images(top, ignored)
        if not paths:
            passed = counted(ignored) or "nothing"
            raise UserError(f"no images under {top}; passed over: {passed}")
        found |= dict.fromkeys(paths)
    return os.path.commonpath(tops), list(found), dict(+ignored)


def split_folders(top: Path, given: Mapping[str, str | None]) -> dict[str, Path]:
    """Return {split: folder} of the sub-folders that are splits; empty if there are none.

    A sub-folder with a usual name is a split only if it holds folders itself.

    Raises:
      UserError: see `split_names.assign`; also if there are splits but no training split.
    """
    folders = {path.name: path for path in visible_folders(top)}
    found = assign([name for name, path in folders.items() if visible_folders(path)], given, str(top), folders)
    if found and "train" not in found:
        raise missing_train(str(top), found, folders)
    return {split: folders[name] for split, name in found.items()}


def find_images(folder: Path, ignored: Counter[str]) -> list[str]:
    """Return all images below a folder, sorted by path, and count skipped files in `ignored`."""
    found = scan(str(folder))
    _count(found, ignored)
    return found.all_images()


def _count(folder: Folder, ignored: Counter[str]) -> None:
    """Count skipped files in a folder and below."""
    for inner in folder.walk():
        ignored["hidden"] += inner.hidden
    for suffix, count in folder.kinds().items():
        ignored[f"not an image ({suffix or 'no suffix'})"] += count


def leaves(split: Folder) -> dict[str, Folder]:
    """Return {path below the split: folder} of folders that hold images and of folders without sub-folders."""
    found = {}
    for folder in split.walk():
        if folder is not split and (folder.images or not folder.shown) and not text_alone(folder):
            found[Path(os.path.relpath(folder.path, split.path)).as_posix()] = folder
    return dict(sorted(found.items()))


def _images(place: Folder, classes: str) -> list[str]:
    return place.all_images() if classes == "top" else sorted(place.images)


def _check_empty(split: str, where: str, places: Mapping[str, Folder]) -> None:
    """Raise UserError for a split without images, or with a class that has none."""
    empty = {name: folder for name, folder in places.items() if not folder.total}
    if not empty:
        return
    if len(empty) == len(places):
        what = f"the class folders {_kinds(empty)}"
        raise UserError(f"no images under {where}: found {what}; expected <class>/<image> in it or in its train/")
    full = ", ".join(name for name in places if name not in empty)
    raise UserError(
        f"no images in the class folder(s) {_kinds(empty)} of {where} ({split}); images are in: {full}. "
        "Remove the empty folder(s)"
    )


def _kinds(folders: Mapping[str, Folder]) -> str:
    """Return names of folders, each with the kinds of its files."""
    texts = []
    for name, folder in folders.items():
        kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in folder.kinds().most_common(3))
        texts.append(f"{name} (files: {kinds})" if kinds else name)
    kinds = [suffix for folder in folders.values() for suffix in folder.kinds()]
    hint = next((f"; {suffix} is {foreign(suffix)}" for suffix in kinds if foreign(suffix)), "")
    return few(texts, SHOWN) + hint


def _check_classes(top: str, files: Mapping[str, Mapping], layout: Layout) -> None:
    """Raise UserError for classes that cannot be trained on."""
    classes, splits = list(files["train"]), layout.splits
    if not classes:
        passed = counted(layout.unused) or "nothing"
        unpack = "; unpack the archives" if any(f"({kind})" in passed for kind in ARCHIVES) else ""
        raise UserError(
            f"no images under {top}: found no class folders; expected <class>/<image> in it or its train/; passed "
            f"over: {passed}{unpack}"
        )
    if len(classes) == 1 and (richer := next((split for split in files if len(files[split]) > 1), None)):
        raise UserError(
            f"train has only the class {classes[0]!r}, and {richer} has {len(files[richer])} "
            f"({', '.join(list(files[richer])[:SHOWN])}): a classifier sees all classes in training. To train on the "
            f"images of {richer} and to split off a share of them: {flag('train', layout.called[richer])} "
            f"{flag(richer, NONE)}"
        )
    for split, found in files.items():
        new = [name for name in found if name not in classes]
        if new:
            lines = ", ".join(f"{name} (nearest in train: {_near(name, classes)})" for name in new[:SHOWN])
            more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
            raise UserError(
                f"{split} has the class(es) {lines}{more} that train lacks: give them the names of train's, or leave "
                f"{splits[split].path} out with {flag(split, NONE)}"
            )
    if len(classes) < 2:
        raise UserError(f"only one class, {classes[0]!r}, under {top}; a classifier needs two{_deeper(splits)}")


def _deeper(splits: Mapping[str, Folder]) -> str:
    """Return a hint for classes in deeper folders."""
    train = splits["train"]
    while len(train.full) == 1:
        (train,) = train.full.values()
    if not train.full:
        return ""
    deeper = any(folder.full for folder in train.full.values())
    ways = ["--config.data.classes=leaf"] * (not deeper) + [f"--config.data.root={train.path}"] * (len(splits) == 1)
    if not ways:
        return ""
    return (
        f"; if the {len(train.full)} folders of {train.path} ({', '.join(list(train.full)[:SHOWN])}) are the classes, "
        f"give {', or '.join(ways)}"
    )


def _near(name: str, classes: list[str]) -> str:
    """Return the most similar class, and whether it differs only by case, blanks or punctuation."""
    same = next((other for other in classes if _bare(other) == _bare(name)), None)
    return f"{same}, the same but for case, blanks or signs" if same else near_names(name, classes).split(", ")[0]


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())


def _similar(classes: Iterable[str]) -> list[str]:
    """Return a line if names of two classes differ only by case, blanks or punctuation."""
    found: dict[str, list[str]] = {}
    for name in classes:
        found.setdefault(_bare(name) or name, []).append(name)
    pairs = [" and ".join(names) for names in found.values() if len(names) > 1]
    line = f"{few(pairs, SHOWN)} are read as different classes: rename the folders if they are one"
    return [line] * bool(pairs)


def _bands(files: Mapping[str, list[str]]) -> list[str]:
    """Return a line if all classes hold the same few file names, such as B02.tif and B8A.tif, not just numbers."""
    names = []
    for name, paths in files.items():
        stems = {os.path.splitext(os.path.basename(path))[0].removeprefix(name).strip(" _-.") for path in paths}
        if len(stems) < 2 or len(stems) < len(paths) or (names and stems != names[0]):
            return []
        names.append(stems)
    first = sorted(names[0]) if len(names) > 1 else []
    numbers = [int(found.group()) for name in first if (found := re.search(r"\d+$", name))]
    if not first or (len(numbers) == len(first) and min(numbers) <= 1):  # images numbered per class
        return []
    shown = ", ".join(first[:SHOWN] + ["..."] * (len(first) > SHOWN))
    return [
        f"all {len(names)} classes hold files of the same names ({shown}): if these are bands or views of one image, "
        "the folders are not classes"
    ]


def _mask_files(files: Mapping[str, list[str]]) -> list[str]:
    """Return a line if masks are among the images of a class: a.png and a_mask.png."""
    found = []
    for paths in files.values():
        named = [path for path in paths if any(word in path for word in MASKS)]
        stems = {os.path.splitext(path)[0] for path in paths} if named else set()
        masks = [os.path.splitext(path)[0] for path in named]
        found += [
            stem for stem in masks if f"_{stem.rpartition('_')[2]}." in MASKS and stem.rpartition("_")[0] in stems
        ]
    shown = os.path.basename(found[0]) if found else ""
    return [f"{len(found)} images look like masks of others, such as {shown}, and are read as images"] * bool(found)


def _nested(splits: Mapping[str, Folder], classes: str) -> list[str]:
    """Return a line if the class folders hold more image folders than there are classes."""
    train = splits["train"]
    below = [name for name, folder in leaves(train).items() if folder.total]
    if classes == "leaf" and below == [*train.folders]:
        return ["--config.data.classes=leaf has no effect: no class folder holds folders of images"]
    if classes == "leaf" or len(below) <= len(train.folders):
        return []
    shown = ", ".join(below[:3] + ["..."] * (len(below) > 3))
    return [
        f"the {len(train.folders)} classes hold {len(below)} folders of images ({shown}); "
        f"--config.data.classes=leaf makes each of the {len(below)} a class"
    ]


def _lacking(files: Mapping[str, Mapping]) -> list[str]:
    """Return a line for each split that lacks classes of train."""
    lines = []
    for split, found in files.items():
        lacks = [name for name in files["train"] if name not in found]
        if lacks:
            share = f"{len(lacks)} of the {len(files['train'])} classes"
            lines.append(f"{split} has no images of {share}: {few(lacks, SHOWN)}")
    return lines
