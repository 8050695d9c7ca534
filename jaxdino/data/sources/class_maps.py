"""Sources of the field "class_mask": the class of every pixel, from folders of masks, VOC's layout, or the shapes.

The values of masks become classes as `data.class_masks` says; the classes are those of all splits together.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.data.class_masks import BACKGROUND, ClassMask, class_table, folders_of_splits, paired
from jaxdino.data.config import DataConfig
from jaxdino.data.mask_survey import survey
from jaxdino.data.record import Source, Split
from jaxdino.data.roots import existing, visible_folders
from jaxdino.data.sources.masks import Place, by_name, images_of, matched_by_name, places, read_classes, settings_file
from jaxdino.data.sources.shapes import NAMES, scenes
from jaxdino.data.sources.voc import listed_files
from jaxdino.data.splitting import origins, shared_out

Files = list[tuple[str, str]]  # (image, mask) paths
NAMING = ("classes.json", "classes.txt")


def masks(cfg: DataConfig) -> Source:
    """List images/a.jpg with masks/a.png, or the folders `data.images` and `data.masks`, and their splits.

    A mask belongs to the image of the same name, or of the same name and an ending that all masks share ("a_mask.png").
    Images without a mask, and masks without an image, are skipped and counted.

    Raises:
      UserError: if a folder is missing, no image has a mask, nothing names the classes, most masks differ in size from
        their images, and see `class_masks.class_table`.
    """
    top, ignored = existing(cfg.root, "masks"), Counter()
    found, called = chosen_places(top, cfg)
    files = {split: matched_files(place, ignored) for split, place in found.items()}
    homes = [home for place in found.values() for home in (place.home, place.masks)]
    settings = [settings_file(name, home, top) for home in homes for name in NAMING]
    file = next((one for one in settings if one is not None), None)
    if file is None:
        folders = ", ".join(path.name for path in visible_folders(top)[:6])
        raise UserError(
            f"nothing names the classes of the masks in {found['train'].masks}: write classes.json, "
            f'{{"1": "cat", "2": "dog"}}, or classes.txt, line i for value i, into {top} (beside {folders})'
        )
    return _source("masks", top, files, named_values(file), str(file), cfg, ignored, called)


def chosen_places(
    top: Path, cfg: DataConfig, setting: str = "masks", usual: str = "masks"
) -> tuple[dict[str, Place], dict[str, str]]:
    """Return {split: its place} and {split: its folder's name}, of the folders set or of `sources.masks.places`.

    Args:
      setting: the setting that names the folder beside that of the images. usual: its name otherwise.

    Raises:
      UserError: if only one of the two folders is set, and as `class_masks.folders_of_splits`.
    """
    images, other = cfg.images, getattr(cfg, setting)
    if (images is None) != (other is None):
        raise UserError(f"data.images is {images!r} and data.{setting} is {other!r}: give both folders, or none")
    if images is None or other is None:
        return places(top, cfg, usual)
    pairs = folders_of_splits(top, images, other, cfg.given_splits, setting)
    found = {split: Place(images, labels, labels.parent) for split, (images, labels) in pairs.items()}
    called = {split: place.images.relative_to(top).as_posix() for split, place in found.items()}
    return found, {split: name for split, name in called.items() if split != "train"}


def voc(cfg: DataConfig) -> Source:
    """List JPEGImages/<name>.jpg and SegmentationClass/<name>.png; see `sources.voc.voc`. The border is ignored."""
    ignored: Counter[str] = Counter()
    found = listed_files(cfg, ignored)
    return _source("voc", found.top, found.files, found.classes, found.where, cfg, ignored, found.called)


def shapes(cfg: DataConfig) -> Source:
    """List the generated scenes: the class of a pixel is its shape, such as "red circle", or the background."""
    names, splits = (BACKGROUND, *NAMES), {}
    for split, listed in scenes(cfg.split_seed).items():
        found = []
        for scene in listed:
            labels = np.zeros(np.asarray(scene.image).shape[:2], np.uint8)
            for name, mask in scene.masks.items():
                labels[np.asarray(mask) == 1] = names.index(name)
            found.append(labels)
        splits[split] = Split(split, [scene.image for scene in listed], {"class_mask": found}, names)
    return Source("shapes", names, splits)


def named_values(file: Path) -> dict[int, str]:
    """Read {value: class} from a classes.json or classes.txt. Raise UserError for other content."""
    classes = read_classes(file)
    first = file.suffix == ".txt" and classes.get(1, "").casefold() == BACKGROUND
    return {value - first: BACKGROUND if first and value == 1 else name for value, name in classes.items()}


def matched_files(place: Place, ignored: Counter, what: str = "mask") -> Files:
    """Return the files of one split: images with their masks (`what`). Raises UserError if there are none."""
    images = images_of(place, ignored)
    labels = by_name(place.masks, ignored, place.prefix)
    found, _ = paired(images, labels)
    if not found:
        found = matched_by_name(images, labels, place, ignored, False)  # raises
    else:
        ignored[f"{what} without image"] += len(labels) - len(found)
    ignored[f"image without {what}"] += len(images) - len(found)
    return [(images[name], path) for name, path in sorted(found.items())]


def _source(
    name: str,
    top: Path,
    files: Mapping[str, Files],
    classes: Mapping[int, str],
    where: str,
    cfg: DataConfig,
    ignored: Counter,
    called: Mapping[str, str],
) -> Source:
    """Read the values of all masks, give them classes, and split off what is missing."""
    every = [pair for split in files.values() for pair in split]
    seen = survey(every, cfg.max_pixels, indexed=True)
    table, notes = class_table(classes, [mask for _, mask in every], seen, where, cfg.background)
    splits: dict[str, Split] = {}
    for split, found in shared_out(files, cfg, top).items():
        fields: dict[str, Sequence[Any]] = {"class_mask": [ClassMask(mask, table) for _, mask in found]}
        splits[split] = Split(split, [image for image, _ in found], fields, table.names, str(top))
    return Source(name, table.names, splits, dict(+ignored), origins(cfg, called, ""), notes)
