"""A look through mask files before a run: their sizes and values, many at a time."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.data.checks import upright_size
from jaxdino.data.pairs import FileMask, Scene, read_values

THREADS = min(8, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one mask file holds: its values, ascending, and (width, height); both None where it cannot be read."""

    values: tuple[int, ...] | None
    size: tuple[int, int] | None


def survey(files: Sequence[tuple[str, str]], max_pixels: int, indexed: bool) -> list[Seen]:
    """What each mask file holds.

    Args:
      files: (image, mask) paths.
      max_pixels, indexed: as for `pairs.read_values`.

    Raises:
      UserError: if most masks are not of their images' sizes.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        looks = pool.map(lambda file: _look(file[1], max_pixels, indexed), files)
        seen = list(bar(looks, "looking through masks", total=len(files), unit="mask"))
    check_fit(files, [look.size for look in seen])
    return seen


def check_fit(files: Sequence[tuple[str, str]], sizes: Sequence[tuple[int, int] | None]) -> None:
    """Raises UserError if most masks are not of their images' sizes; single ones are said where they are read.

    Args:
      files: (path of an image, what to call its mask).
      sizes: (width, height) of each mask; None fits.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        looks = pool.map(lambda file, size: _fits(file[0], size), files, sizes)
        fits = list(bar(looks, "comparing sizes of masks and images", total=len(files)))
    wrong = [file for file, fit in zip(files, fits, strict=True) if not fit]
    if len(wrong) > len(files) / 2:
        raise UserError(
            f"{len(wrong)} of {len(files)} masks are not of their image's size, such as {wrong[0][1]} for "
            f"{wrong[0][0]}: a mask has a value for each pixel of its image"
        )


def _look(path: str, max_pixels: int, indexed: bool) -> Seen:
    try:
        values = read_values(path, max_pixels, indexed)
    except BadImage:
        return Seen(None, None)  # said where the pair is read
    found = np.flatnonzero(np.bincount(values.ravel())) if values.dtype.itemsize < 4 else np.unique(values)
    return Seen(tuple(found.tolist()), values.shape[::-1])


def _fits(image: str, size: tuple[int, int] | None) -> bool:
    """Whether an image has that (width, height) when upright; true where this cannot be told."""
    try:
        with Image.open(image) as opened:
            return size is None or upright_size(opened, size) == size
    except Exception:  # said where the image is read
        return True


def whole_scenes(found: Sequence[tuple[str, dict[str, str]]], max_pixels: int) -> list[Scene]:
    """Scenes of masks that show one prompt each, wherever they are above 0.

    Args:
      found: (image, {prompt: mask file}) paths.
    """
    paths = {(image, path) for image, masks in found for path in masks.values()}
    files = sorted(paths)  # a file of several prompts is looked at once
    seen = dict(zip(files, survey(files, max_pixels, indexed=False), strict=True))
    scenes = []
    for image, masks in found:
        absent = tuple(name for name, path in masks.items() if seen[image, path].values == (0,))
        scenes.append(Scene(image, {name: FileMask(path) for name, path in masks.items()}, absent))
    return scenes


def indexed_scenes(
    files: Sequence[tuple[str, str]], classes: Mapping[int, str], where: str, max_pixels: int, ignored: int = 255
) -> list[Scene]:
    """Scenes of masks whose values stand for prompts; a prompt makes a pair where one of its values occurs.

    A mask that cannot be read makes one pair, of the first prompt, so that reading it names and counts it.

    Args:
      files: (image, mask) paths.
      classes: {value: prompt}; a prompt may have several.
      where: what says so, for messages.
      ignored: the value of pixels that do not count, unless it stands for a prompt.

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
    meaning: dict[str, tuple[int, ...]] = {}
    for value, name in classes.items():
        meaning[name] = (*meaning.get(name, ()), value)
    scenes = []
    for (image, path), look in zip(files, seen, strict=True):
        present = [name for name, known in meaning.items() if set(known) & set(look.values or ())]
        chosen = present if look.values is not None else list(meaning)[:1]
        scenes.append(Scene(image, {name: FileMask(path, meaning[name], ignore) for name in chosen}))
    return scenes
