"""The source "coco_panoptic": images with COCO's panoptic annotations, PNGs whose colours are the ids of segments.

Source of the format: cocodataset.org, format-data, "Panoptic Segmentation": id = R + 256 G + 65536 B; 0 is unlabelled.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.file_names import is_path_below
from jaxdino.data.config import DataConfig
from jaxdino.data.instances import IGNORED, InstanceLists, Instances
from jaxdino.data.mask_reading import read_colours
from jaxdino.data.mask_survey import check_fit
from jaxdino.data.record import Source, Split
from jaxdino.data.roots import existing
from jaxdino.data.sources.coco import PARTS, SAMPLE, annotation_files, image_folder, read_annotations
from jaxdino.data.splitting import origins, shared_out

FIELDS = {**PARTS, "annotations": ("image_id", "file_name", "segments_info")}
SHIFTS = np.array([1, 256, 65536])


@dataclasses.dataclass(frozen=True)
class Segments:
    """Read the segments of an image from a PNG of ids.

    Attributes:
      path: of the PNG. segments: (id, index of its class, whether it is a crowd).
    """

    path: str
    segments: tuple[tuple[int, int, bool], ...]

    def __call__(self, max_pixels: int) -> Instances:
        """Return the segments; pixels of other ids are ignored. Raises BadImage."""
        ids = read_colours(self.path, max_pixels).astype(np.int64) @ SHIFTS
        own, places = np.unique(ids, return_inverse=True)
        numbers = {one[0]: number for number, one in enumerate(self.segments, 1)}
        table = np.array([numbers.get(value, IGNORED) for value in own.tolist()], np.int32)
        found = table[places.reshape(ids.shape)]
        return Instances.of(found, [one[1] for one in self.segments], [one[2] for one in self.segments])


def coco(cfg: DataConfig) -> Source:
    """List the images of annotations/panoptic_{train,val,test}*.json, whose PNGs lie in a folder of the file's name.

    Segments of unknown categories are ignored, as are images without an annotation; both are counted.

    Raises:
      UserError: as `sources.coco.coco`; for a missing folder of PNGs.
    """
    top, ignored = existing(cfg.root, "coco_panoptic"), Counter()
    files = annotation_files(top, cfg, None, ignored, way="", kind="panoptic")
    given = {split: read_annotations(file, FIELDS) for split, file in files.items()}
    names = tuple(dict.fromkeys(name for one in given.values() for name in one["categories"].values()))
    stuff = {name for one in given.values() for name in one["stuff"]}
    things = tuple(name not in stuff for name in names)
    listed = {}
    for split, file in files.items():
        listed[split] = _images(given[split], _maps(top, file), image_folder(top, file, given[split]), names, ignored)
    splits = {}
    for split, found in shared_out(listed, cfg, top).items():
        counts = [sum(not crowd for *_, crowd in one.segments) for _, one in found]
        held = InstanceLists([one for _, one in found], counts, things)
        splits[split] = Split(split, [path for path, _ in found], {"instances": held}, names, str(top))
    where = origins(cfg, {split: os.path.relpath(file, top) for split, file in files.items()}, "")
    return Source("coco_panoptic", names, splits, dict(+ignored), where)


def _maps(top: Path, file: Path) -> Path:
    """Return the folder of the PNGs of an annotation file. Raises UserError if there is none."""
    places = (file.with_suffix(""), top / file.stem)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise UserError(f"the PNGs of {file} are in none of: {', '.join(map(str, places))}")
    return found


def _images(
    given: Mapping[str, Any], maps: Path, folder: Path, names: tuple[str, ...], ignored: Counter
) -> list[tuple[str, Segments]]:
    """Return (path, segments) of each image with an annotation, in the order of the annotations."""
    found = []
    for note in given["annotations"]:
        image = given["images"].get(note["image_id"])
        if image is None or not isinstance(note["file_name"], str) or not is_path_below(note["file_name"]):
            ignored["annotation of an unknown image, or with a path out of its folder"] += 1
            continue
        segments = []
        for one in note["segments_info"] if isinstance(note["segments_info"], list) else [None]:
            one = one if isinstance(one, dict) else {}
            category = one.get("category_id")
            name = given["categories"].get(category) if isinstance(category, int | str) else None
            if name is None or not isinstance(one.get("id"), int):
                ignored["segment of an unknown category, or without an id"] += 1
            else:
                segments.append((one["id"], names.index(name), one.get("iscrowd") in (1, True)))
        found.append((str(folder / image["file_name"]), Segments(str(maps / note["file_name"]), tuple(segments))))
    ignored["image without annotation"] += len(given["images"]) - len({path for path, _ in found})
    sizes = {str(folder / image["file_name"]): (image["width"], image["height"]) for image in given["images"].values()}
    check_fit(
        [(path, f"the entry of {given['file']}") for path, _ in found[:SAMPLE]], [sizes[p] for p, _ in found[:SAMPLE]]
    )
    return found
