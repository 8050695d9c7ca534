"""List images with the objects of COCO's annotation files, as polygons or run lengths."""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.data import regions
from jaxdino.data.bad_images import BadImage
from jaxdino.data.config import DataConfig
from jaxdino.data.instances import InstanceLists, Instances
from jaxdino.data.mask_survey import check_fit
from jaxdino.data.record import Source, Split
from jaxdino.data.roots import existing
from jaxdino.data.sources.coco import SAMPLE, annotation_files, image_folder, read_annotations
from jaxdino.data.split_names import SPLITS
from jaxdino.data.splitting import origins, shared_out

Listed = tuple[str, "RegionInstances", str]


@dataclasses.dataclass(frozen=True)
class RegionInstances:
    """Draw the objects of one image. Where objects overlap, the smaller one has the pixels.

    Attributes:
      parts: COCO "segmentation" of each object: polygons [[x, y, ...], ...] or run lengths {"size", "counts"}.
      labels: the class of each. crowd: whether each is a group. size: (height, width) of the image.
    """

    parts: tuple[Any, ...]
    labels: tuple[int, ...]
    crowd: tuple[bool, ...]
    size: tuple[int, int]

    def __call__(self, max_pixels: int) -> Instances:
        """Return the objects. Raises BadImage for regions that cannot belong to an image of this size."""
        if self.size[0] * self.size[1] > max_pixels:
            raise BadImage(f"its masks have more than max_pixels = {max_pixels} pixels")
        ids = np.zeros(self.size, np.int32)
        try:
            drawn = [regions.union([part], self.size) for part in self.parts]
        except ValueError as err:
            raise BadImage(f"its regions cannot be read: {err}") from err
        order = [(not crowd, -int(mask.sum())) for crowd, mask in zip(self.crowd, drawn, strict=True)]
        for place in sorted(range(len(drawn)), key=order.__getitem__):  # crowds first, then from large to small
            ids[drawn[place]] = place + 1
        return Instances.of(ids, self.labels, self.crowd)


def coco(cfg: DataConfig) -> Source:
    """List the images of annotations/instances_{train,val,test}*.json, or of {train,valid,test}/*.coco.json.

    Images without objects teach that there are none. An annotation without segmentation, with polygons of two points
    only, or of an unknown image or category is left out and counted.

    Raises:
      UserError: if files are missing, several files match one split, a file is not in COCO format or has no
        segmentation, the images are not found, or most of them have another size than their entries.
    """
    top, ignored = existing(cfg.root, "coco"), Counter()
    files = annotation_files(top, cfg, None, ignored, way="")
    given = {split: read_annotations(file) for split, file in files.items()}
    names = tuple(dict.fromkeys(name for one in given.values() for name in one["categories"].values()))
    stuff = {name for one in given.values() for name in one["stuff"]}
    things = tuple(name not in stuff for name in names)
    listed: dict[str, list[Listed]] = {}
    for split, file in files.items():
        if not any(note.get("segmentation") for note in given[split]["annotations"]):
            raise UserError(f"{file} has boxes but no segmentation: masks need polygons or run lengths")
        listed[split] = _images(given[split], image_folder(top, file, given[split]), names, ignored)
    splits = {}
    for split, found in shared_out(listed, cfg, top).items():
        counts = [len(one.labels) - sum(one.crowd) for _, one, _ in found]
        held = InstanceLists([one for _, one, _ in found], counts, things)
        splits[split] = Split(split, [path for path, _, _ in found], {"instances": held}, names, str(top))
    where = origins(cfg, {split: os.path.relpath(file, top) for split, file in files.items()}, "")
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    return Source("coco", names, ordered, dict(+ignored), where)


def _images(given: Mapping[str, Any], folder: Path, names: tuple[str, ...], ignored: Counter) -> list[Listed]:
    """Return (path, objects, annotation file) of each image, in file order."""
    parts: dict[Any, list[tuple[Any, int, bool]]] = {key: [] for key in given["images"]}
    for note in given["annotations"]:
        name = given["categories"].get(note["category_id"])
        if name is None or note["image_id"] not in parts:
            ignored["annotation of an unknown image or category"] += 1
        elif not regions.drawn(note.get("segmentation")):
            ignored["annotation without segmentation, or with fewer than three points"] += 1
        else:
            crowd = note.get("iscrowd") in (1, True)
            parts[note["image_id"]].append((note["segmentation"], names.index(name), crowd))
    found: list[Listed] = []
    for key, image in given["images"].items():
        columns = tuple(zip(*parts[key], strict=True)) or ((), (), ())
        held = RegionInstances(*columns, size=(image["height"], image["width"]))
        found.append((str(folder / image["file_name"]), held, str(given["file"])))
        ignored["image without annotation, kept as one without objects"] += not parts[key]
    some = [one for one in found if one[1].labels][:SAMPLE]
    check_fit([(path, f"the entry of {file}") for path, _, file in some], [held.size[::-1] for _, held, _ in some])
    return found
