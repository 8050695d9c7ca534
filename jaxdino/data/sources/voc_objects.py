"""The field "instances" of Pascal VOC: maps of SegmentationObject, with the classes of SegmentationClass."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.data.config import DataConfig
from jaxdino.data.instances import IGNORED, InstanceLists, Instances
from jaxdino.data.mask_reading import IGNORED as BORDER
from jaxdino.data.mask_reading import read_values, shown
from jaxdino.data.mask_survey import survey
from jaxdino.data.record import Source, Split
from jaxdino.data.sources.voc import listed_files
from jaxdino.data.splitting import origins, shared_out

FOLDER = "SegmentationObject"


@dataclasses.dataclass(frozen=True)
class VOCObjects:
    """Read the objects of an image from its two maps.

    Attributes:
      objects, classes: paths. labels: (value, index of its class).
    """

    objects: str
    classes: str
    labels: tuple[tuple[int, int], ...]

    def __call__(self, max_pixels: int) -> Instances:
        """Return the objects; one without a known class is ignored. Raises BadImage."""
        numbers, values = (read_values(path, max_pixels, indexed=True) for path in (self.objects, self.classes))
        if numbers.shape != values.shape:
            raise BadImage(f"its maps {shown(self.objects)} and {shown(self.classes)} differ in size")
        table, ids, labels = dict(self.labels), np.zeros(numbers.shape, np.int32), []
        for number in np.unique(numbers).tolist():
            if number == 0:
                continue
            own = numbers == number
            counts = np.bincount(values[own], minlength=1)
            known = [value for value in table if value < len(counts) and counts[value]]
            if number == BORDER or not known:
                ids[own] = IGNORED
                continue
            labels.append(table[max(known, key=lambda value: counts[value])])
            ids[own] = len(labels)
        return Instances.of(ids, labels)


def voc(cfg: DataConfig) -> Source:
    """List images with the objects of SegmentationObject, by the lists of `sources.voc`.

    Raises:
      UserError: see `sources.voc.voc`; without SegmentationObject, or if no listed image has a map there.
    """
    ignored: Counter[str] = Counter()
    found = listed_files(cfg, ignored)
    maps = {path.stem: str(path) for path in sorted((found.top / FOLDER).glob("*.png"))}
    if not maps:
        raise UserError(f"{found.top} has no {FOLDER} with PNG files: objects are read from there")
    names = tuple(dict.fromkeys(found.classes.values()))
    labels = tuple((value, names.index(name)) for value, name in found.classes.items())
    files: dict[str, list[tuple[str, VOCObjects]]] = {}
    for split, listed in found.files.items():
        pairs = [(image, mask) for image, mask in listed if Path(mask).stem in maps]
        ignored[f"image without a map in {FOLDER}"] += len(listed) - len(pairs)
        files[split] = [(image, VOCObjects(maps[Path(mask).stem], mask, labels)) for image, mask in pairs]
    every = [pair for listed in files.values() for pair in listed]
    if not every:
        raise UserError(f"none of the listed images of {found.top} has a map in {FOLDER}")
    seen = survey([(image, one.objects) for image, one in every], cfg.max_pixels, indexed=True)
    counts = {
        one.objects: -1 if look.values is None else sum(value not in (0, BORDER) for value in look.values)
        for (_, one), look in zip(every, seen, strict=True)
    }
    splits = {}
    for split, listed in shared_out(files, cfg, found.top).items():
        held = InstanceLists(
            [one for _, one in listed], [counts[one.objects] for _, one in listed], (True,) * len(names)
        )
        splits[split] = Split(split, [image for image, _ in listed], {"instances": held}, names, str(found.top))
    return Source("voc", names, splits, dict(+ignored), origins(cfg, found.called, ""))
