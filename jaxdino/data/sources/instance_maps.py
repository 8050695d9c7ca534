"""Sources of the field "instances": maps of object numbers, such as 16-bit PNG, beside the images; and the shapes.

The values of a map, as the naming file says (classes.json {"24": "person"} or classes.txt, line i for value i):
  no naming file, or one class     every value above 0 is an object, of the class "object" or of that one
  several classes                  value 24 * 1000 + i is object i of class 24, as in Cityscapes; value 24 is a group of
                                   objects (ignored) if any map has objects of that class, else all of a class of stuff
  value 0 without a name           no object; with classes of stuff, ignored
  other values without a class     ignored, and reported in a line
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.config import DataConfig
from jaxdino.data.instances import IGNORED, NOTHING, InstanceLists, Instances
from jaxdino.data.mask_reading import read_values, shown
from jaxdino.data.mask_survey import Seen, survey
from jaxdino.data.record import Source, Split
from jaxdino.data.roots import existing
from jaxdino.data.sources.class_maps import NAMING, chosen_places, matched_files, named_values
from jaxdino.data.sources.masks import settings_file
from jaxdino.data.sources.shapes import NAMES, scenes
from jaxdino.data.splitting import origins, shared_out

OBJECT = "object"  # the class of objects that no file names
PER_CLASS = 1000  # numbers of the objects of a class, as in Cityscapes
SHOWN = 8  # values in a message


@dataclasses.dataclass(frozen=True)
class IdTable:
    """What the values of maps stand for; see the module.

    Attributes:
      names: the classes. values: (value, index of its class); () if every value above 0 is an object of the first.
      things: for each class whether it has objects; others are stuff.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, int], ...] = ()
    things: tuple[bool, ...] = (True,)

    def meaning(self, value: int) -> tuple[int, bool] | int:
        """Return (class, whether it is a crowd) of a value, or `NOTHING` or `IGNORED`."""
        if not self.values:
            return (0, False) if value > 0 else NOTHING if value == 0 else IGNORED
        if value >= PER_CLASS and (label := self._labels.get(value // PER_CLASS)) is not None:
            return label, False
        if (label := self._labels.get(value)) is not None:
            return label, self.things[label]
        return NOTHING if value == 0 and all(self.things) else IGNORED

    @functools.cached_property
    def _labels(self) -> dict[int, int]:
        return dict(self.values)

    def instances(self, values: np.ndarray) -> Instances:
        """Return the objects of a map (H, W) of any integer type."""
        own, places = np.unique(values, return_inverse=True)
        numbers, labels, crowd = np.zeros(len(own), np.int32), [], []
        known: dict[tuple[int, bool], int] = {}  # a class of stuff with several values is one object
        for place, value in enumerate(own.tolist()):
            meaning = self.meaning(value)
            if isinstance(meaning, int):
                numbers[place] = meaning
                continue
            whole = not self.things[meaning[0]] or meaning[1]
            if whole and meaning in known:
                numbers[place] = known[meaning]
                continue
            labels.append(meaning[0])
            crowd.append(meaning[1])
            numbers[place] = known[meaning] = len(labels)
        return Instances.of(numbers[places.reshape(values.shape)], labels, crowd)


@dataclasses.dataclass(frozen=True)
class IdMap:
    """Read the objects of an image from a file of numbers."""

    path: str
    table: IdTable

    def __call__(self, max_pixels: int) -> Instances:
        """Return the objects. Raises BadImage for a missing or damaged file, colours, JPEG, or too many pixels."""
        return self.table.instances(read_values(self.path, max_pixels, indexed=True))


def masks(cfg: DataConfig) -> Source:
    """List images/a.jpg with masks/a.png, see `class_maps.masks`; images without a map are skipped and counted.

    Raises:
      UserError: if a folder is missing, no image has a map, most maps differ in size from their images, no map has an
        object, or the naming file does not fit the values.
    """
    top, ignored = existing(cfg.root, "masks"), Counter()
    found, called = chosen_places(top, cfg)
    files = {split: matched_files(place, ignored) for split, place in found.items()}
    homes = [home for place in found.values() for home in (place.home, place.masks)]
    naming = [settings_file(name, home, top) for home in homes for name in NAMING]
    file = next((one for one in naming if one is not None), None)
    every = [pair for listed in files.values() for pair in listed]
    seen = survey(every, cfg.max_pixels, indexed=True)
    table, notes = id_table(file, [mask for _, mask in every], seen)
    counts = {mask: _count(table, look) for (_, mask), look in zip(every, seen, strict=True)}
    splits: dict[str, Split] = {}
    for split, listed in shared_out(files, cfg, top).items():
        held = InstanceLists([IdMap(mask, table) for _, mask in listed], [counts[m] for _, m in listed], table.things)
        splits[split] = Split(split, [image for image, _ in listed], {"instances": held}, table.names, str(top))
    return Source("masks", table.names, splits, dict(+ignored), origins(cfg, called, ""), notes)


def _count(table: IdTable, look: Seen) -> int:
    """Return the number of objects of a map, -1 if it cannot be read."""
    if look.values is None:
        return -1
    return sum(isinstance(one := table.meaning(value), tuple) and not one[1] for value in look.values)


def id_table(file: Path | None, maps: Sequence[str], seen: Sequence[Seen]) -> tuple[IdTable, tuple[str, ...]]:
    """Return what the values of maps stand for, and lines for the user.

    Args:
      file: names the classes; None: there is one. maps: paths. seen: the values of each.

    Raises:
      UserError: as `masks`.
    """
    holding: dict[int, list[str]] = {}
    for path, look in zip(maps, seen, strict=True):
        for value in look.values or ():
            holding.setdefault(value, []).append(path)
    if not any(value > 0 for value in holding):
        raise UserError(f"no mask, such as {maps[0]}, has a value above 0: there is no object to learn")
    classes = named_values(file) if file is not None else {}
    numbered = {value // PER_CLASS for value in holding if value >= PER_CLASS} & classes.keys()
    if len(classes) < 2 and not numbered:
        name = next(iter(classes.values()), OBJECT)
        where = f"as {file} says" if classes else "since no classes.json or classes.txt names classes"
        return IdTable((name,)), (f'every value above 0 of a mask is an object of the class "{name}", {where}',)
    if not numbered:
        raise UserError(
            f"{file} names the values {few(sorted(classes), SHOWN)}, but no mask has an object of them, such as "
            f"{min(classes) * PER_CLASS + 1} (class * {PER_CLASS} + number); found: {few(sorted(holding), SHOWN)}. For "
            "masks of classes without objects use configs/segment_linear.py; for objects of one class name only one"
        )
    names = tuple(dict.fromkeys(name for _, name in sorted(classes.items())))
    values = tuple((value, names.index(name)) for value, name in sorted(classes.items()))
    with_objects = {classes[value] for value in numbered}
    table = IdTable(names, values, tuple(name in with_objects for name in names))
    return table, _notes(table, holding)


def _notes(table: IdTable, holding: Mapping[int, Sequence[str]]) -> tuple[str, ...]:
    """Return lines about classes of stuff, and values without a class."""
    stuff = [name for name, thing in zip(table.names, table.things, strict=True) if not thing]
    lines = [f"classes without object numbers, one region an image: {few(stuff, SHOWN)}"] if stuff else []
    void = [value for value in sorted(holding) if table.meaning(value) == IGNORED]
    if void:
        told = [f"{value} (in {len(holding[value])} masks, such as {shown(holding[value][0])})" for value in void]
        lines.append(f"pixels of values without a class are ignored: {few(told, SHOWN, 'values')}")
    return tuple(lines)


def shapes(cfg: DataConfig) -> Source:
    """List the generated scenes with each shape as an object."""
    splits = {}
    for split, listed in scenes(cfg.split_seed).items():
        found = []
        for scene in listed:
            ids = np.zeros(np.asarray(scene.image).shape[:2], np.int32)
            for number, mask in enumerate(scene.masks.values(), 1):
                ids[np.asarray(mask) == 1] = number
            found.append(Instances.of(ids, [NAMES.index(name) for name in scene.masks]))
        held = InstanceLists(found, [len(one.labels) for one in found], (True,) * len(NAMES))
        splits[split] = Split(split, [scene.image for scene in listed], {"instances": held}, NAMES)
    return Source("shapes", NAMES, splits)
