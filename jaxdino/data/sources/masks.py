"""The source "masks": a folder of images and a folder of masks, with one prompt for all, per class or per file.

Layouts, below the root or below its train, val and test (images/train/a.jpg with masks/train/a.png are splits too):
  images/a.jpg, masks/a.png          and prompts.prompt: all values above 0 show the prompt
  images/a.jpg, masks/a.png          and prompts.json {"a": "two cats"} or {"a": ["cats", "animals"]}: per file
  images/a.jpg, masks/a.png          and classes.json {"1": "cat"} or classes.txt, line i for value i: one per value
  images/a.jpg, masks/cat/a.png      the sub-folders of masks are the prompts: all values above 0
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdino.core import json_file
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.data.config import DataConfig
from jaxdino.data.folders import find_images, split_folders
from jaxdino.data.mask_survey import indexed_scenes, whole_scenes
from jaxdino.data.prompted import Listed, Scene, assemble, put_aside
from jaxdino.data.prompts import PromptConfig, check_prompts
from jaxdino.data.record import Source
from jaxdino.data.roots import existing, visible_folders
from jaxdino.data.sources.listed_rows import lines_of
from jaxdino.data.split_names import ROOT, assign, flag, splits_of
from jaxdino.data.splitting import origins

ANNOTATION_BYTES = 8 << 30  # COCO's largest file has half a gigabyte
WAYS = (
    "set prompts.prompt (--config.prompts.prompt=nucleus), or add prompts.json, classes.json or classes.txt beside "
    "images/, or put the masks into masks/<prompt>/"
)


def masks(cfg: DataConfig, prompts: PromptConfig) -> Source:
    """List image-mask pairs; see the module. Missing splits are taken from train by `val_ratio` and `test_ratio`.

    A mask belongs to the image of the same name, with any suffix; sub-folders are part of the name. Images
    without a mask and masks without an image are skipped and counted; with `allow_unmasked` such training images are
    kept if `prompt` or prompts.json gives their prompt. Mask values without a prompt are background; 255 is ignored
    unless it has a prompt.

    Raises:
      UserError: if a folder is missing, two files have the same name, masks have no prompt, or no mask has values of
        the classes, and see `sources.load_source`.
    """
    top = existing(cfg.root, "masks")
    ignored: Counter[str] = Counter()
    listed: Listed = {}
    names: dict[str, None] = {}
    found, called = places(top, cfg)
    for split, place in found.items():
        listed[split], named = _scenes(place, top, cfg, prompts, ignored)
        names |= dict.fromkeys(named)
    used = {part for place in found.values() for part in (place.images, place.masks, place.home)}
    for folder in visible_folders(top):
        if not any(path.is_relative_to(folder) for path in used):
            ignored[f"images in the folder {folder.name}/"] += len(find_images(folder, Counter()))
    where = origins(cfg, called, "")
    return assemble("masks", put_aside(listed, cfg, top), tuple(names), prompts, str(top), ignored, where)


@dataclasses.dataclass(frozen=True)
class Place:
    """The folders of images and masks of a split.

    Attributes:
      home: the folder that may hold its prompts.json and similar files.
      prefix: prefix of the names of its images: "train/" in images/train.
    """

    images: Path
    masks: Path
    home: Path
    prefix: str = ""


def places(top: Path, cfg: DataConfig, beside: str = "masks") -> tuple[dict[str, Place], dict[str, str]]:
    """Return {split: its place} and {split: its folder's name}: train/images, or images/train, or all in "train".

    Args:
      beside: the folder of the masks, beside images/.
    """
    images, masks = top / "images", top / beside
    whole = {"train": Place(images, masks, top)}
    if cfg.train_split == ROOT:
        return whole, {}
    holding = [path.name for path in visible_folders(top) if visible_folders(path)]
    if not images.is_dir() or "train" in splits_of(holding).values():
        found = split_folders(top, cfg.given_splits)
        places = {split: Place(path / "images", path / beside, path) for split, path in found.items()}
        return places or whole, {split: path.name for split, path in found.items()}
    found = assign([path.name for path in visible_folders(images)], cfg.given_splits, str(images))
    if "train" not in found or (len(found) < 2 and not any(cfg.given_splits.values())):
        return whole, {}
    for name in found.values():
        if not (masks / name).is_dir():
            near = ", ".join(path.name for path in visible_folders(masks)[:5]) if masks.is_dir() else "no such folder"
            raise UserError(
                f"{images} has the splits {', '.join(found.values())}, but {masks} has no folder {name}; found: "
                f"{near or 'no folders'}. The layout is images/{name}/a.jpg with {beside}/{name}/a.png; to take all as "
                f"one split, give {flag('train', ROOT)}"
            )
    return {split: Place(images / n, masks / n, top, f"{n}/") for split, n in found.items()}, found


def _scenes(
    place: Place, top: Path, cfg: DataConfig, prompts: PromptConfig, ignored: Counter
) -> tuple[list[Scene], list[str]]:
    """Return the scenes of one split, and all prompts in label order."""
    images = images_of(place, ignored)
    settings = {name: settings_file(name, place.home, top) for name in ("prompts.json", "classes.json", "classes.txt")}
    folders = {path.name for path in visible_folders(place.masks)}
    if folders and not folders <= {path.name for path in visible_folders(place.images)}:
        if prompts.prompt is not None:
            raise UserError(
                f"prompts.prompt is {prompts.prompt!r}, but {place.masks} has a folder for each prompt "
                f"({', '.join(sorted(folders)[:5])}): leave it None, or put the masks directly into masks/"
            )
        return _of_folders(place, sorted(folders), images, cfg, ignored)
    files = by_name(place.masks, ignored, place.prefix)
    matched = matched_by_name(images, files, place, ignored, prompts.allow_unmasked)
    if prompts.prompt is not None:
        return _whole({stem: [prompts.prompt] for stem in images}, images, matched, cfg), [prompts.prompt]
    if file := settings["prompts.json"]:
        texts = _texts(file, images)
        ignored["image that prompts.json does not name"] += sum(stem not in texts for stem in images)
        return _whole(texts, images, matched, cfg), sorted({name for found in texts.values() for name in found})
    if file := settings["classes.json"] or settings["classes.txt"]:
        ignored["image without mask"] += len(images) - len(matched)
        return _of_values(file, images, matched, cfg, ignored)
    raise UserError(f"nothing says what the masks of {place.masks} show: {WAYS}")


def images_of(place: Place, ignored: Counter) -> dict[str, str]:
    """Return the images of a split, see `by_name`. Raise UserError if there are none, or a folder is missing."""
    for folder in (place.images, place.masks):
        if not folder.is_dir():
            near = ", ".join(path.name for path in visible_folders(folder.parent)[:5]) or "no folders"
            raise UserError(
                f"{folder.parent} has no folder {folder.name}/; found: {near}. The layout is images/a.jpg, masks/a.png"
            )
    images = by_name(place.images, ignored, place.prefix)
    if not images:
        raise UserError(f"no images under {place.images}")
    return images


def settings_file(name: str, place: Path, top: Path) -> Path | None:
    """Return the file of that name in a split's own folder or at the root."""
    return next((folder / name for folder in (place, top) if (folder / name).is_file()), None)


def by_name(folder: Path, ignored: Counter, prefix: str) -> dict[str, str]:
    """Return {prefix and path below the folder, without suffix: path}."""
    found: dict[str, str] = {}
    for path in find_images(folder, ignored):
        stem = prefix + Path(path).relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise UserError(f"two files of one name in {folder}: {Path(found[stem]).name} and {Path(path).name}")
        found[stem] = path
    return found


def matched_by_name(
    images: Mapping[str, str], masks: Mapping[str, str], place: Place, ignored: Counter, unmasked: bool
) -> dict[str, str]:
    """Return the masks of images, matched by name. Raise UserError if no image has a mask."""
    matched = {stem: masks[stem] for stem in images if stem in masks}
    if not matched and not unmasked:
        stem = next(iter(images))
        hint = did_you_mean(stem, masks) if masks else "it has no image files at all"
        raise UserError(
            f"no image of {place.images} has a mask: {Path(images[stem]).name} belongs to "
            f"{stem.removeprefix(place.prefix)}.* (any suffix) in {place.masks}; {hint}"
        )
    ignored["mask without image"] += len(masks) - len(matched)
    return matched


def _whole(
    texts: Mapping[str, list[str]], images: Mapping[str, str], masks: Mapping[str, str], cfg: DataConfig
) -> list[Scene]:
    """Return scenes whose mask files show one thing each, with the prompts in `texts`."""
    found = [(images[stem], dict.fromkeys(texts[stem], masks[stem])) for stem in masks if stem in texts]
    bare = [Scene(images[stem], dict.fromkeys(texts[stem])) for stem in images if stem in texts and stem not in masks]
    return sorted([*whole_scenes(found, cfg.max_pixels), *bare], key=lambda scene: scene.image)


def _of_folders(
    place: Place, folders: list[str], images: Mapping[str, str], cfg: DataConfig, ignored: Counter
) -> tuple[list[Scene], list[str]]:
    """Return scenes of masks/<prompt>/<name>."""
    masks = {name: by_name(place.masks / name, ignored, place.prefix) for name in folders}
    matched_by_name(
        images, {stem: path for files in masks.values() for stem, path in files.items()}, place, ignored, False
    )
    found = []
    for stem, path in images.items():
        found.append((path, {name: files[stem] for name, files in masks.items() if stem in files}))
    ignored["image without mask"] += sum(not files for _, files in found)
    below = sum(len(files) for files in masks.values())
    ignored["mask outside the prompts' folders"] += len(find_images(place.masks, Counter())) - below
    return whole_scenes([item for item in found if item[1]], cfg.max_pixels), folders


def _of_values(
    file: Path, images: Mapping[str, str], masks: Mapping[str, str], cfg: DataConfig, ignored: Counter
) -> tuple[list[Scene], list[str]]:
    """Return scenes of masks whose values are named in `file`."""
    classes = read_classes(file)
    files = [(images[stem], path) for stem, path in masks.items()]
    scenes = indexed_scenes(files, classes, str(file), cfg.max_pixels)
    ignored["mask without a named value"] += sum(not scene.masks for scene in scenes)
    return scenes, list(dict.fromkeys(classes.values()))


def read_classes(file: Path) -> dict[int, str]:
    """Read {value: prompt} from a classes.json or classes.txt, sorted by value. Raise UserError for other content."""
    if file.suffix == ".txt":
        classes = {value: line.strip() for value, line in enumerate(lines_of(file), 1) if line.strip()}
    else:
        given = read_json(file)
        if not isinstance(given, dict) or not all(re.fullmatch(r"-?[0-9]+", key) for key in given):
            raise UserError(f'{file} must be {{"1": "cat", "2": "dog"}}: mask values with their prompts')
        classes = {int(key): name for key, name in sorted(given.items(), key=lambda item: int(item[0]))}
    if not classes:
        raise UserError(f"{file} names no class")
    check_prompts(tuple(classes.values()), str(file))
    return classes


def _texts(file: Path, images: Mapping[str, str]) -> dict[str, list[str]]:
    """Read {name of an image: its prompts} from a prompts.json."""
    given = read_json(file)
    if not isinstance(given, dict) or not all(isinstance(found, str | list) for found in given.values()):
        raise UserError(f'{file} must be {{"image": "prompt"}}: image names without suffix, with a prompt or a list')
    texts = {stem: [found] if isinstance(found, str) else found for stem, found in given.items()}
    for stem, found in texts.items():
        check_prompts(found, f"{file}, {stem!r},")
    texts = {stem: [name.strip() for name in found] for stem, found in texts.items() if stem in images}
    if not texts:
        raise UserError(f"{file} names none of the images; {did_you_mean(next(iter(given), ''), images)}")
    return texts


def read_json(file: Path) -> Any:
    """Load a JSON file. Raise UserError if it cannot be read."""
    if not file.exists():
        near = did_you_mean(file.name, [path.name for path in file.parent.glob("*.json")])
        raise UserError(f"{file} does not exist; {near}")
    return json_file.read_json(file, max_bytes=ANNOTATION_BYTES, max_memory=20 * ANNOTATION_BYTES, any_number=True)
