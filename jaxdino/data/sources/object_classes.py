"""The classes of images from the objects in them: the sources "voc" and "coco" for the fields "label" and "labels".

The classes of an image are those of its objects, each once; whether an object has a box or a mask does not matter.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.config import DataConfig
from jaxdino.data.packed import Texts
from jaxdino.data.record import Source
from jaxdino.data.roots import existing
from jaxdino.data.sources.coco import annotation_files, image_folder, read_annotations
from jaxdino.data.sources.listed_images import LABEL, LABELS, PLACES, Images, source_of
from jaxdino.data.sources.voc_xml import class_names, listed_images, read_objects
from jaxdino.data.split_names import SPLITS

SHOWN = 5  # images named


class Seen(NamedTuple):
    """An image: its path, its split, the classes of its objects, and the file that says so."""

    path: str
    split: str
    classes: tuple[str, ...]
    file: str


def voc(cfg: DataConfig, field: str) -> Source:
    """List JPEGImages/<name>.* with the classes of the objects in Annotations/<name>.xml, see `voc_xml`.

    The classes are the lines of a classes.txt at the root, or else all names in the files, sorted. Splits without a
    list get their share of train, as in a manifest. Images whose annotation is missing or not readable are left out.

    Raises:
      UserError: see `voc_xml.listed_images`; for a class that is not in classes.txt or not in train, a larger share
        than `max_missing` of images left out, and for "label", images of several classes.
    """
    ignored: Counter[str] = Counter()
    top, files, called = listed_images(cfg, ignored)
    every = [(path, split) for split in SPLITS for (path,) in files.get(split, ())]
    notes, read = read_objects([path for path, _ in every], top)
    seen, lost = [], []
    for (path, split), file, things in zip(every, notes, read, strict=True):
        if file and not isinstance(things, str):
            found = tuple(sorted({thing.name for thing in things} - {""}))
            seen.append(Seen(path, split, found, file))
        else:
            lost.append(f"{os.path.relpath(path, top)} ({things if file else 'it has none'})")
    _check_lost(cfg, lost, len(every))
    ignored["image whose annotation is missing or not readable"] += len(lost)
    names = class_names(top, {name for one in seen for name in one.classes})
    for one in seen:
        if unknown := [name for name in one.classes if name not in names]:
            raise UserError(
                f"{one.file}: the class {unknown[0]!r} is not in {top / 'classes.txt'}: {few(names, SHOWN)}"
            )
    return _source("voc", cfg, field, seen, names, top, called, ignored)


def coco(cfg: DataConfig, field: str) -> Source:
    """List the images of COCO's annotation files with the classes of their objects.

    The classes are all categories of the files, in their order. An image without an object has no class.

    Raises:
      UserError: see `coco.annotation_files` and `coco.image_folder`; for a class that train lacks, and for "label",
        images of several classes.
    """
    ignored: Counter[str] = Counter()
    top = existing(cfg.root, "coco")
    files = annotation_files(top, cfg, None, ignored, way="")
    names: dict[str, None] = {}
    seen: list[Seen] = []
    for split, file in files.items():
        given = read_annotations(file)
        names |= dict.fromkeys(given["categories"].values())
        folder = image_folder(top, file, given)
        classes: dict[object, dict[str, None]] = {key: {} for key in given["images"]}
        for note in given["annotations"]:
            name = given["categories"].get(note["category_id"])
            if name is None or note["image_id"] not in classes:
                ignored["annotation of an unknown image or category"] += 1
            else:
                classes[note["image_id"]][name] = None
        for key, image in given["images"].items():
            path = os.path.normpath(folder / image["file_name"])
            seen.append(Seen(path, split, tuple(classes[key]), str(file)))
    called = {split: os.path.relpath(file, top) for split, file in files.items()}
    return _source("coco", cfg, field, seen, tuple(names), top, called, ignored)


def fields(source: Callable[[DataConfig, str], Source]) -> dict[str, Callable[[DataConfig], Source]]:
    """Return {field: function that lists the images with it}."""
    return {LABEL: lambda cfg: source(cfg, LABEL), LABELS: lambda cfg: source(cfg, LABELS)}


def _check_lost(cfg: DataConfig, lost: Sequence[str], count: int) -> None:
    if len(lost) > cfg.max_missing * count:
        raise UserError(
            f"the annotations of {len(lost)} of {count} images are missing or cannot be read: {few(lost, SHOWN)}. That "
            f"is more than data.max_missing={cfg.max_missing:g}: restore them, or allow a larger share with "
            "--config.data.max_missing=0.5"
        )


def _source(
    name: str,
    cfg: DataConfig,
    field: str,
    seen: list[Seen],
    names: tuple[str, ...],
    top: Path,
    called: Mapping[str, str],
    ignored: Counter,
) -> Source:
    """Return the source of the images, after checks that they fit the field."""
    if field == LABEL:
        several = [one for one in seen if len(one.classes) > 1]
        if several:
            first = f"{os.path.relpath(several[0].path, top)} ({few(several[0].classes, SHOWN)})"
            raise UserError(
                f"{len(several)} of {len(seen)} images of {top} have several classes, such as {first}: a classifier "
                "with one class for each image cannot learn them. Use --config=multilabel, or "
                "--config.objective.name=multilabel"
            )
        ignored["image without an object"] += sum(not one.classes for one in seen)
        seen = [one for one in seen if one.classes]
    if len(names) < 2:
        raise UserError(f"{top} has {few(names, 1) or 'no objects'} as the only class; a classifier needs two")
    twice = [path for path, count in Counter(one.path for one in seen).items() if count > 1]
    if twice:
        raise UserError(f"{len(twice)} images are listed twice, such as {twice[0]}: name each in one split, once")
    sets = list(dict.fromkeys(one.classes for one in seen))
    number = {one: place for place, one in enumerate(sets)}
    images = Images(
        top,
        Texts.of((os.path.relpath(one.path, top) for one in seen), os.path.join(top, "")),
        sets,
        np.array([number[one.classes] for one in seen], np.int32),
        np.array([PLACES.index(one.split) for one in seen], np.int8),
        lambda row: (Path(seen[row].file), 1),
        field == LABEL,
        names,
        called,
        (f"classes of an image: those of its objects; {sum(not one.classes for one in seen)} images have none",),
        name,
        ignored,
    )
    return source_of(cfg, images, field)
