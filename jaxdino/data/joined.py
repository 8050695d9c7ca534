"""Join several folders of images to one data set: the parts of a split, united by class."""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.layout import Layout, understand
from jaxdino.data.roots import check_apart
from jaxdino.data.split_names import NONE, SPLITS, flag, missing_train, split_word
from jaxdino.data.tree import Folder, scan

SHOWN = 6  # names listed in a message


def joined(roots: Sequence[Path], given: Mapping[str, str | None]) -> Layout:
    """Find the splits of several roots, and unite the folders of a split by the names of their classes.

    A root with splits of its own gives its part of each. Any other root, whose folders are classes, belongs to the
    split that its name says (train.X1, val.X) or that `given` says, and to train if neither does.

    Args:
      given: {split: name of a root, or of a folder in each root; see `layout.understand`}.

    Raises:
      UserError: for roots that overlap, a name in `given` that is not there, no training images, and as `understand`.
    """
    check_apart(roots)
    names = {root.name for root in roots}
    of_roots = {name: split for split, name in given.items() if name in names}
    inside = {split: name for split, name in given.items() if name not in (None, NONE, *names)}
    left_out = [split for split, name in given.items() if name == NONE]
    parts: dict[str, list[Folder]] = {}
    unused: Counter[str] = Counter()
    notes: list[str] = []
    for root in roots:
        layout = understand(scan(str(root)), inside)
        whole = set(layout.splits) == {"train"} and not inside
        for split, folder in layout.splits.items():
            meant = of_roots.get(root.name) or _meant(root.name, given) if whole else split
            if meant in left_out:
                unused[f"images in the folder {root.name}/"] += folder.total
            else:
                parts.setdefault(meant, []).append(folder)
        unused.update(layout.unused)
        notes += [note for note in layout.notes if not (whole and split_word(root.name))]
    top = os.path.commonpath(roots)
    called = {s: few([os.path.relpath(f.path, top) for f in parts[s]], SHOWN) for s in SPLITS if s in parts}
    if "train" not in parts:
        raise missing_train(top, called, [root.name for root in roots])
    splits = {split: united(parts[split], called[split]) for split in called}
    return Layout(splits, called, unused, (*_said(parts, called), *notes))


def _meant(name: str, given: Mapping[str, str | None]) -> str:
    """Return the split that the name of a root says, unless another root is given for that split."""
    word = split_word(name)
    if word and given.get(word) not in (None, NONE):
        raise UserError(
            f"the root {name} could be the {word} split too, beside {flag(word, given[word] or '')}: leave the flag "
            "out, or leave the folder out of data.root"
        )
    return word or "train"


def united(folders: Sequence[Folder], path: str) -> Folder:
    """Return one folder with the files of several; their sub-folders of the same name become one."""
    if len(folders) == 1:
        return folders[0]
    inner: dict[str, list[Folder]] = {}
    for folder in folders:
        for name, one in folder.folders.items():
            inner.setdefault(name, []).append(one)
    return dataclasses.replace(
        folders[0],
        path=path,
        images=[image for folder in folders for image in folder.images],
        folders={name: united(inner[name], os.path.join(path, name)) for name in sorted(inner)},
        others=sum((folder.others for folder in folders), Counter()),
        hidden=sum(folder.hidden for folder in folders),
        total=sum(folder.total for folder in folders),
    )


def _said(parts: Mapping[str, Sequence[Folder]], called: Mapping[str, str]) -> list[str]:
    """Return a line for each split that says what was joined."""
    lines = []
    for split, text in called.items():
        folders = parts[split]
        seen = Counter(name for folder in folders for name in folder.full)
        several = [name for name, count in seen.items() if count > 1]
        shared = f"; in more than one of them: {few(several, 3, 'classes')}" if several else ""
        count = sum(folder.total for folder in folders)
        lines.append(f"joined: {split} is {text}, {len(seen)} classes, {count} images{shared}")
    return lines
