"""The source "coco": images with their regions in a JSON file, as polygons or run-length encodings."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.file_names import is_path_below
from jaxdino.data import regions
from jaxdino.data.bad_images import BadImage
from jaxdino.data.config import DataConfig
from jaxdino.data.mask_reading import IGNORED
from jaxdino.data.mask_survey import check_fit
from jaxdino.data.prompted import Listed, Scene, assemble, put_aside
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.record import Source
from jaxdino.data.roots import existing
from jaxdino.data.sources.masks import read_json
from jaxdino.data.split_names import NONE, SPLITS, assign, flag, split_of, splits_of
from jaxdino.data.splitting import origins

SAMPLE = 50  # images whose sizes are compared with those in the JSON file before a run
ANNOTATIONS = "--config.prompts.annotations=FILE"
PARTS = {  # lists of a COCO file, with the required fields of their entries
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}


@dataclasses.dataclass(frozen=True)
class RegionMask:
    """Draw the mask of one category in one image: the union of its regions. Crowd regions elsewhere are ignored.

    Attributes:
      things, crowds: COCO "segmentation": polygons [[x, y, ...], ...] or run-length encodings {"size", "counts"}.
      size: (height, width) of the image.
    """

    things: tuple[Any, ...]
    crowds: tuple[Any, ...]
    size: tuple[int, int]

    def __call__(self, max_pixels: int) -> np.ndarray:
        if self.size[0] * self.size[1] > max_pixels:
            raise BadImage(f"its mask has more than max_pixels = {max_pixels} pixels")
        try:
            thing, crowd = (regions.union(parts, self.size) for parts in (self.things, self.crowds))
        except ValueError as err:
            raise BadImage(f"its regions cannot be read: {err}") from err
        return np.where(crowd & ~thing, np.uint8(IGNORED), thing.astype(np.uint8))


def coco(cfg: DataConfig, prompts: PromptConfig) -> Source:
    """List image-mask pairs of annotations/instances_{train,val,test}*.json, or of {train,valid,test}/*.coco.json.

    Each category is a prompt; its regions in an image are merged into one mask. An image without regions gives no
    pair. If `prompts.annotations` names one file instead, its images are split by `val_ratio` and `test_ratio`.

    Raises:
      UserError: if files are missing, several files match one split, a file is not in COCO format, or the images are
        not found.
    """
    top = existing(cfg.root, "coco")
    ignored: Counter[str] = Counter()
    listed: Listed = {}
    names: dict[str, None] = {}
    files = annotation_files(top, cfg, prompts.annotations, ignored)
    for split, file in files.items():
        given = read_annotations(file)
        if not any(note.get("segmentation") for note in given["annotations"]):
            raise UserError(f"{file} has boxes but no segmentation: masks need polygons or run lengths")
        names |= dict.fromkeys(given["categories"].values())
        listed[split] = _scenes(given, image_folder(top, file, given), ignored)
    where = origins(cfg, {split: os.path.relpath(file, top) for split, file in files.items()}, "")
    return assemble("coco", put_aside(listed, cfg, top), tuple(names), prompts, str(top), ignored, where)


def annotation_files(
    top: Path,
    cfg: DataConfig,
    annotations: str | None,
    ignored: Counter,
    way: str = ANNOTATIONS,
    kind: str = "instances",
) -> dict[str, Path]:
    """Return {split: annotation file}, and count the other annotation files in `ignored`.

    Args:
      annotations: the only file, below the root or anywhere; None looks for the usual ones.
      way: the setting that names it, "" if the caller has none.
      kind: "instances", or "panoptic", whose files are only those in annotations/.

    Raises:
      UserError: if files are missing, or several match one split.
    """
    if annotations is not None:
        if any(cfg.given_splits.values()):
            raise UserError("prompts.annotations names one file, which is split by ratio: leave *_split None beside it")
        return {"train": top / Path(annotations).expanduser()}
    files = {}
    others = top.glob("*/*.coco.json") if kind == "instances" else ()
    for path in sorted([*top.glob(f"annotations/{kind}_*.json"), *others]):
        tag = path.stem.removeprefix(f"{kind}_") if path.parent.name == "annotations" else path.parent.name
        files.setdefault(tag, []).append(path)
    if doubled := next((paths for paths in files.values() if len(paths) > 1), None):
        shown = ", ".join(str(path.relative_to(top)) for path in doubled)
        raise UserError(
            f"several files for one split: {shown}; move the others away{way and f', or name one with {way}'}"
        )
    # val_split=val names instances_val2017.json too
    given = {
        split: name if name in (None, NONE, *files) else next((tag for tag in files if tag.startswith(name)), name)
        for split, name in cfg.given_splits.items()
    }
    usual = splits_of(files).values()
    for split in [split for split in SPLITS if given[split] is None and split not in usual]:  # train_small
        given[split] = next((tag for tag in files if split_of(re.split(r"\W|_", tag)[0]) == split), None)
    found = assign(
        files, given, f"{top} (annotations/{kind}_NAME.json{', NAME/*.coco.json' if kind == 'instances' else ''})"
    )
    if "train" not in found:
        there = ", ".join(str(path.relative_to(top)) for path in sorted(top.glob("**/*.json"))[:5]) or "no JSON file"
        raise UserError(
            f"{top} has no annotations/{kind}_train*.json; found: {there}. Name its split with "
            f"{flag('train', 'NAME')}{way and f', or the file with {way}'}"
        )
    left = [path for tag, paths in files.items() if tag not in found.values() for path in paths]
    ignored.update({f"file {path.relative_to(top)}": 1 for path in left})
    return {split: files[tag][0] for split, tag in found.items()}


def read_annotations(file: Path, parts: Mapping[str, tuple[str, ...]] = PARTS) -> dict[str, Any]:
    """Load and check a file: {"file", "images": {id: entry}, "categories": {id: name}, "annotations": list, "stuff"}.

    "stuff" are the names of categories with "isthing" 0: regions without separate objects. `parts` are the required
    fields of each list.

    Raises:
      UserError: if it is not in COCO format.
    """
    given = read_json(file)
    for part, fields in parts.items():
        entries = given.get(part) if isinstance(given, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) and {*fields} <= e.keys() for e in entries):
            raise UserError(
                f"{file} is not a COCO instances file: its {part!r} must be a list of entries with {', '.join(fields)}"
            )
        if not entries:
            raise UserError(f"{file} has no {part}")
    ids = (("images", "id"), ("categories", "id"), ("annotations", "image_id"), ("annotations", "category_id"))
    for part, field in [one for one in ids if one[1] in parts[one[0]]]:
        if odd := [entry[field] for entry in given[part] if not isinstance(entry[field], int | str)]:
            raise UserError(f"{file}: {field}={odd[0]!r} in {part!r} is neither a number nor a text")
    for field in ("height", "width"):
        if odd := [image for image in given["images"] if type(image[field]) is not int or not 0 < image[field] < 2**31]:
            raise UserError(f"{file}: {field}={odd[0][field]!r} of {odd[0]['file_name']!r} is no number of pixels")
    if odd := [image["file_name"] for image in given["images"] if not is_path_below(image["file_name"])]:
        raise UserError(f"{file}: file_name={odd[0]!r} leads out of the image folder, or is too long")
    if odd := [entry["name"] for entry in given["categories"] if not isinstance(entry["name"], str)]:
        raise UserError(f"{file}: the category name {odd[0]!r} is not a text")
    return {
        "file": file,
        "images": {image["id"]: image for image in given["images"]},
        "categories": {category["id"]: category["name"] for category in given["categories"]},
        "annotations": given["annotations"],
        "stuff": [category["name"] for category in given["categories"] if category.get("isthing") == 0],
    }


def image_folder(top: Path, file: Path, given: Mapping[str, Any]) -> Path:
    """Return the image folder: the first candidate that holds one of the first few images. Raise UserError if none."""
    tag = file.stem.removeprefix("instances_").removeprefix("panoptic_")
    bare = tag.rstrip("0123456789")
    places = dict.fromkeys([top / tag, top / "images" / tag, top / bare, top / "images" / bare, top / "images"])
    places |= dict.fromkeys([file.parent, top])
    names = [image["file_name"] for image in list(given["images"].values())[:20]]
    for place in places:
        if any((place / name).is_file() for name in names):
            return place
    looked = ", ".join(str(place) for place in places)
    raise UserError(f"the images of {file}, such as {names[0]}, are in none of: {looked}")


def _scenes(given: Mapping[str, Any], folder: Path, ignored: Counter) -> list[Scene]:
    """Return one scene per image, in file order. Raise UserError if most of the first images have other sizes."""
    things: dict[Any, dict[str, tuple[list, list]]] = {key: {} for key in given["images"]}
    for note in given["annotations"]:
        name, image = given["categories"].get(note["category_id"]), things.get(note["image_id"])
        if name is None or image is None:
            ignored["annotation of an unknown image or category"] += 1
            continue
        known = image.setdefault(name, ([], []))  # the category is in the image, even without a mask
        if regions.drawn(note.get("segmentation")):
            known[bool(note.get("iscrowd"))].append(note["segmentation"])
        else:
            ignored["annotation without segmentation"] += 1
    scenes = []
    for key, image in given["images"].items():
        found, size = things[key], (image["height"], image["width"])
        masks = {n: RegionMask(tuple(one), tuple(crowd), size) for n, (one, crowd) in found.items() if one}
        unpaired = tuple(name for name in found if name not in masks)
        scenes.append(Scene(str(folder / image["file_name"]), masks, unpaired=unpaired))
        ignored["image without annotation"] += not found
        ignored["crowd alone"] += sum(bool(found[name][1]) for name in unpaired)
    some = [(scene, image) for scene, image in zip(scenes, given["images"].values(), strict=True) if scene.masks][
        :SAMPLE
    ]
    files = [(scene.image, f"the entry {image['id']} of {given['file']}") for scene, image in some]
    check_fit(files, [(image["width"], image["height"]) for _, image in some])
    return scenes
