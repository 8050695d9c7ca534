"""Read the sizes and values of all mask files before a run, in parallel."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.data.checks import upright_size
from jaxdino.data.image_file import open_file
from jaxdino.data.mask_reading import FileMask, read_values
from jaxdino.data.prompted import Scene

THREADS = min(8, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class Seen:
    """The values of one mask file, ascending, and its (width, height); both None if it cannot be read."""

    values: tuple[int, ...] | None
    size: tuple[int, int] | None


def survey(files: Sequence[tuple[str, str]], max_pixels: int, indexed: bool) -> list[Seen]:
    """Return the values and size of each mask file.

    Args:
      files: (image, mask) paths.
      max_pixels, indexed: as for `mask_reading.read_values`.

    Raises:
      UserError: if most masks differ in size from their images.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        looks = pool.map(lambda file: _look(file[1], max_pixels, indexed), files)
        seen = list(bar(looks, "looking through masks", total=len(files), unit="mask"))
    check_fit(files, [look.size for look in seen])
    return seen


def check_fit(files: Sequence[tuple[str, str]], sizes: Sequence[tuple[int, int] | None]) -> None:
    """Raise UserError if most masks differ in size from their images. A few are reported when they are read.

    Args:
      files: (path of an image, name of its mask in messages).
      sizes: (width, height) of each mask; None is accepted.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        looks = pool.map(lambda file, size: _fits(file[0], size), files, sizes)
        fits = list(bar(looks, "comparing sizes of masks and images", total=len(files)))
    wrong = [file for file, fit in zip(files, fits, strict=True) if not fit]
    if len(wrong) > len(files) / 2:
        raise UserError(
            f"{len(wrong)} of {len(files)} masks differ in size from their images, such as {wrong[0][1]} for "
            f"{wrong[0][0]}: a mask has a value for each pixel of its image"
        )


def _look(path: str, max_pixels: int, indexed: bool) -> Seen:
    try:
        values = read_values(path, max_pixels, indexed)
    except BadImage:
        return Seen(None, None)  # reported when the pair is read
    found = np.flatnonzero(np.bincount(values.ravel())) if values.dtype.itemsize < 4 else np.unique(values)
    return Seen(tuple(found.tolist()), values.shape[::-1])


def _fits(image: str, size: tuple[int, int] | None) -> bool:
    """Return whether an upright image has that (width, height); true if its size cannot be read."""
    try:
        with open_file(image) as opened:
            return size is None or upright_size(opened, size) == size
    except Exception:  # reported when the image is read
        return True


def whole_scenes(found: Sequence[tuple[str, dict[str, str]]], max_pixels: int) -> list[Scene]:
    """Return scenes whose masks show one prompt each, where the values are above 0.

    Args:
      found: (image, {prompt: mask file}) paths.
    """
    paths = {(image, path) for image, masks in found for path in masks.values()}
    files = sorted(paths)  # read a file with several prompts only once
    seen = dict(zip(files, survey(files, max_pixels, indexed=False), strict=True))
    scenes = []
    for image, masks in found:
        absent = tuple(name for name, path in masks.items() if seen[image, path].values == (0,))
        scenes.append(Scene(image, {name: FileMask(path) for name, path in masks.items()}, absent))
    return scenes


def indexed_scenes(
    files: Sequence[tuple[str, str]], classes: Mapping[int, str], where: str, max_pixels: int, ignored: int = 255
) -> list[Scene]:
    """Return scenes whose mask values stand for prompts; an image forms a pair with each prompt in its mask.

    A mask that cannot be read gives one pair, with the first prompt, so that it is reported and counted when read.

    Args:
      files: (image, mask) paths.
      classes: {value: prompt}; a prompt may have several values.
      where: the source of `classes`, for messages.
      ignored: the value of pixels to ignore, unless it stands for a prompt.

    Raises:
      UserError: if no mask has any of the values.
    """
    seen = survey(files, max_pixels, indexed=True)
    values = {value for look in seen for value in look.values or ()}
    readable = any(look.values is not None for look in seen)
    if readable and not values & set(classes):
        shown = ", ".join(map(str, sorted(values)[:10]))
        raise UserError(
            f"{where} names the values {', '.join(map(str, sorted(classes)[:10]))}, but the masks, such as "
            f"{files[0][1]}, have {shown}: name these, or set prompts.prompt if all above 0 shows one thing"
        )
    ignore = None if ignored in classes else ignored
    meaning: dict[str, list[int]] = {}
    for value, name in classes.items():
        meaning.setdefault(name, []).append(value)
    place = {name: at for at, name in enumerate(meaning)}
    scenes = []
    for (image, path), look in zip(files, seen, strict=True):
        present = {classes[value] for value in look.values or () if value in classes}
        chosen = sorted(present, key=place.__getitem__) if look.values is not None else list(meaning)[:1]
        scenes.append(Scene(image, {name: FileMask(path, tuple(meaning[name]), ignore) for name in chosen}))
    return scenes
