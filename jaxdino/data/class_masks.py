"""Masks of classes: a class for every pixel of an image, read from files whose values stand for classes.

The classes are named by value in a classes.json {"1": "cat"} or a classes.txt, line i for value i, beside the folders;
VOC's are known. Class i of a data set is the i-th name by value; a name of several values is one class.
  value 0 without a name     the class "background" if any mask has it (Pascal VOC counts it so), or ignored
  value 255 without a name   ignored: neither trained on nor measured
  other values without name  ignored, and reported in a line
A classes.txt whose first line is "background" starts at value 0.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.core.words import few
from jaxdino.data.mask_reading import IGNORED, read_values, shown
from jaxdino.data.mask_survey import Seen
from jaxdino.data.roots import visible_folders
from jaxdino.data.split_names import NONE, ROOT, WORDS, flag

BACKGROUND = "background"
MOST = IGNORED  # classes: 0 to 254
SHOWN = 8  # values or names in a message


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """What the values of masks stand for.

    Attributes:
      names: the classes.
      places: (value, index of its class), ascending by value.
    """

    names: tuple[str, ...]
    places: tuple[tuple[int, int], ...]

    def classes(self, values: np.ndarray) -> np.ndarray:
        """Return the classes of values of any integer type: uint8, 255 for values of no class."""
        if values.dtype == np.uint8:  # several times as fast as an index
            found = bytearray(values.tobytes()).translate(self._short[:256].tobytes())
            return np.frombuffer(found, np.uint8).reshape(values.shape)
        if values.dtype.itemsize <= 2 and values.dtype.kind != "i":
            return self._short[values.astype(np.uint8) if values.dtype == bool else values]
        keys, found = (np.array(column) for column in zip(*self.places, strict=True))
        place = np.searchsorted(keys, values).clip(max=len(keys) - 1)
        return np.where(keys[place] == values, found[place], IGNORED).astype(np.uint8)

    @functools.cached_property
    def _short(self) -> np.ndarray:
        """The class of every value of 16 bits."""
        table = np.full(2**16, IGNORED, np.uint8)
        for value, place in self.places:
            if 0 <= value < len(table):
                table[value] = place
        return table


@dataclasses.dataclass(frozen=True)
class ClassMask:
    """Read the classes of all pixels from a mask file."""

    path: str
    table: ClassTable

    def __call__(self, max_pixels: int) -> np.ndarray:
        """Return uint8 (H, W), 0 to n - 1, or 255 for ignored pixels.

        Raises:
          BadImage: if the file is missing or cannot be read, has colours or more than `max_pixels`, or is a JPEG.
        """
        return self.table.classes(read_values(self.path, max_pixels, indexed=True))


def class_table(
    classes: Mapping[int, str],
    files: Sequence[str],
    seen: Sequence[Seen],
    where: str,
    background: bool = True,
) -> tuple[ClassTable, tuple[str, ...]]:
    """Return what the values of some masks stand for, and lines for the user.

    Args:
      classes: {value: name}.
      files: paths of the masks. seen: the values of each, see `mask_survey.survey`.
      where: the source of `classes`, for messages.
      background: whether value 0 without a name is a class; otherwise it is ignored.

    Raises:
      UserError: if no mask has a value of the classes, or there are fewer than 2 or more than 255 classes.
    """
    holding: dict[int, list[str]] = {}
    for path, look in zip(files, seen, strict=True):
        for value in look.values or ():
            holding.setdefault(value, []).append(path)
    if holding and not holding.keys() & classes.keys():
        raise UserError(
            f"{where} names the values {few(sorted(classes), SHOWN)}, but the masks, such as {files[0]}, have "
            f"{few(sorted(holding), SHOWN)}: give the values their names"
        )
    added = background and 0 in holding and 0 not in classes
    named = {0: BACKGROUND} | dict(classes) if added else dict(classes)
    names = tuple(dict.fromkeys(name for _, name in sorted(named.items())))
    if not 2 <= len(names) <= MOST:
        raise UserError(
            f"{where} gives {len(names)} class{'es' if len(names) > 1 else ''} ({few(names, SHOWN)}); there must be "
            f"2 to {MOST}, with the background"
        )
    table = ClassTable(names, tuple((value, names.index(name)) for value, name in sorted(named.items())))
    return table, _notes(named, holding, where, added)


def _notes(named: Mapping[int, str], holding: Mapping[int, Sequence[str]], where: str, added: bool) -> tuple[str, ...]:
    """Return a line each for what the background is, values that are ignored, and classes that no mask has."""
    lines = [f'value 0, which {where} does not name, is the class "{BACKGROUND}"'] if added else []
    void = [value for value in sorted(holding) if value not in named]
    if void:
        counted = [f"{value} (in {_masks(holding[value])}, such as {shown(holding[value][0])})" for value in void]
        lines.append(f"pixels of values without a class are ignored: {few(counted, SHOWN, 'values')}")
    found = {name for value, name in named.items() if value in holding}
    missing = [name for name in dict.fromkeys(named.values()) if name not in found]
    if missing and holding:
        hint = ""
        if added and max(named) not in holding and where.endswith(".txt"):
            hint = f": if line 1 of {where} names value 0, give the values in a classes.json instead"
        lines.append(f"no mask has the class{'es' if len(missing) > 1 else ''} {few(missing, SHOWN)}{hint}")
    return tuple(lines)


def _masks(paths: Sequence[str]) -> str:
    return f"{len(paths)} mask{'s' if len(paths) > 1 else ''}"


def paired(images: Mapping[str, str], masks: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return {name of an image: its mask}, and how names of masks end beyond those of the images: "", or "_mask".

    Args:
      images, masks: {name without suffix: path}.
    """
    if images.keys() & masks.keys():
        return {name: masks[name] for name in images if name in masks}, ""
    for name in sorted(images):
        ends = sorted(other.removeprefix(name) for other in masks if other.startswith(name))
        if len(ends) == 1:
            return {one: masks[one + ends[0]] for one in images if one + ends[0] in masks}, ends[0]
    return {}, ""


def folders_of_splits(
    top: Path, images: str, masks: str, given: Mapping[str, str | None], setting: str = "masks"
) -> dict[str, tuple[Path, Path]]:
    """Return {split: (folder of images, folder of masks)} for folders of any names.

    Given the two folders of the training images, those of other splits are the ones whose names have the word of
    another split where these have "train" or "training": val and valannot beside train and trainannot,
    images/validation and annotations/validation beside images/training and annotations/training.

    Args:
      top: the root. images, masks: paths below it. setting: the setting that names `masks`.
      given: {split: the word in place of "train", "none", or None to look for a usual one}; for "train" only "." or
        None: "." looks for no other split.

    Raises:
      UserError: for folders that do not exist or are the same, and for a given word without folders.
    """
    if (top / images).resolve() == (top / masks).resolve():
        raise UserError(f"data.images and data.{setting} are both {images!r}: give the folder of each")
    for name, value in (("images", images), (setting, masks)):
        if not (top / value).is_dir():
            below = [path.relative_to(top).as_posix() for path in _below(top)]
            raise UserError(f"data.{name} is {value!r}, and {top} has no such folder; {did_you_mean(value, below)}")
    if given.get("train") not in (None, ROOT):
        raise UserError(
            f"train_split is {given['train']!r}, but data.images={images} is the folder of the training images: "
            "leave train_split out"
        )
    found = {"train": (top / images, top / masks)}
    for split in ("val", "test") if given.get("train") is None else ():
        word = given.get(split)
        usual = [name for name, meant in WORDS.items() if meant == split]
        pairs = {} if word == NONE else _replaced(top, images, masks, usual if word is None else [word])
        if word not in (None, NONE) and not pairs:
            raise UserError(
                f"{split}_split is {word!r}, but {top} has no folders like {images} and {masks} with {word!r} in place "
                f'of "train"; found: {few([path.relative_to(top).as_posix() for path in _below(top)], SHOWN)}'
            )
        if len(pairs) > 1:
            both = " and ".join(str(one) for one, _ in pairs.values())
            raise UserError(f"{both} could each be the {split} split: {flag(split, next(iter(pairs)))} names one")
        if pairs:
            (found[split],) = pairs.values()
    return found


def _replaced(top: Path, images: str, masks: str, words: Sequence[str]) -> dict[str, tuple[Path, Path]]:
    """Return {word: existing folders} whose paths have the word where the training folders have "train"."""
    found: dict[str, tuple[Path, Path]] = {}
    for train in ("training", "train"):
        for same in (str.lower, str.capitalize, str.upper):
            if same(train) not in images:
                continue
            for word in words:
                new = word if word not in WORDS else same(word)
                pair = top / images.replace(same(train), new), top / masks.replace(same(train), new)
                if pair[0] != top / images and pair[0].is_dir() and pair[1].is_dir() and pair not in found.values():
                    found[new] = pair
        if found:
            break
    return found


def _below(top: Path) -> list[Path]:
    """Return the folders of the first two levels."""
    return [path for first in visible_folders(top) for path in (first, *visible_folders(first))]
