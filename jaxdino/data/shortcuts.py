"""Warn before a run about images that allow shortcuts or hide their content from the model."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from jaxdino.core.resize import Resize
from jaxdino.core.words import few
from jaxdino.data.channels import IN_ALPHA, RGB, drawn_in_alpha
from jaxdino.data.image_file import open_file
from jaxdino.data.kinds import Kind
from jaxdino.data.record import Split
from jaxdino.data.stored import ImageFile

LEAST = 5  # smallest number of images of a class to compare it with others
LARGEST = 2**24  # pixels; larger images are not decoded here
ONE_COLOUR = 32  # levels of 256: images with a smaller range of values are nearly one colour
SHARE = 1 / 4  # of an image
SMALL = (64, 64)
SAME = {".jpeg": ".jpg", ".tiff": ".tif"}
THREADS = 8


def classes_of(splits: Sequence[Split], rows: Mapping[str, Sequence[int]]) -> dict[ImageFile, str]:
    """Return {file: class} of labelled training images that are files.

    Args:
      rows: {split: the rows that are looked at}.
    """
    labelled = [split for split in splits if "label" in split.fields and len(split.class_names) > 1]
    return {
        record: split.class_names[split.labels[row]]
        for split in labelled
        if split.name == "train"
        for row in rows[split.name]
        if isinstance(record := split.records[row], ImageFile)
    }


def told_apart(kinds: Mapping[str, Kind], classes: Mapping[str, str]) -> list[str]:
    """Return a warning if all files of one class are of a kind that another class does not have.

    Args:
      kinds: {path: kind}. classes: {path: class} of the training images.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for path, kind in kinds.items():
        if path in classes:
            suffix = os.path.splitext(str(path))[1].lower()
            counts[classes[path]][f"{kind} {SAME.get(suffix, suffix)}"] += 1
    known = {name: found for name, found in counts.items() if found.total() >= LEAST}
    for kind in sorted(set().union(*known.values())):
        whole = [name for name, found in known.items() if found[kind] == found.total()]
        without = [name for name, found in known.items() if not found[kind]]
        if whole and without:
            return [
                f"WARNING: all images of {few(whole, 3, 'classes')} that were looked at are {kind}, and none of "
                f"{few(without, 3, 'classes')} is: a model may learn this difference instead of the content; "
                "store all classes in one format"
            ]
    return []


def mostly_cropped(kinds: Mapping[str, Kind], size: tuple[int, int], how: Resize) -> list[str]:
    """Return a warning if the evaluation crop shows less than `SHARE` of many images, such as 2000 x 200.

    Args:
      size: (height, width) of the crop. how: how images are resized before it.
    """
    known = {path: kind.size for path, kind in kinds.items() if min(kind.size)}
    hidden = [path for path, (width, height) in known.items() if _share(how.shape(width, height, size), size) < SHARE]
    if len(hidden) <= len(known) / 10:
        return []
    width, height = known[hidden[0]]
    return [
        f"WARNING: the centre crop of evaluation shows less than a quarter of {len(hidden)} of the {len(known)} images "
        f"looked at, such as {hidden[0]} ({width} x {height}): pad long images (data.crop_mode=border), or cut them "
        "into pieces"
    ]


def _share(shape: tuple[int, int], size: tuple[int, int]) -> float:
    """Return the share of an image resized to `shape` (width, height) that a crop of `size` (height, width) shows."""
    return min(1.0, size[1] / shape[0]) * min(1.0, size[0] / shape[1])


def nearly_one_colour(paths: Sequence[str], channels: int) -> list[str]:
    """Return a warning if 8-bit images are nearly one colour as read. Decodes all `paths`, reduced if possible.

    Args:
      channels: number of channels of the model; the images are checked only for 1 and 3.
    """
    if channels not in (1, RGB):
        return []
    with ThreadPoolExecutor(THREADS) as pool:
        seen = {path: levels for path, levels in zip(paths, pool.map(_levels, paths), strict=True) if levels}
    drawn = [path for path, (_, _, alpha) in seen.items() if alpha]
    if drawn:
        return [f"WARNING: of {len(drawn)} of the {len(seen)} images decoded, such as {drawn[0]}, {IN_ALPHA}"]
    low, high = (
        min((each[0] for each in seen.values()), default=0),
        max((each[1] for each in seen.values()), default=255),
    )
    if high - low >= ONE_COLOUR:
        return []
    return [
        f"WARNING: the {len(seen)} images decoded hold values from {low} to {high} of 0 to 255, which is nearly one "
        "colour: if they hold numbers of classes or fewer bits, scale them to 0..255"
    ]


def _levels(path: str) -> tuple[int, int, bool] | None:
    """Return (smallest value, largest, whether the image is only in alpha) of an 8-bit image; None if unknown."""
    try:
        with open_file(path) as image:
            if image.width * image.height > LARGEST:
                return None
            image.draft(image.mode, SMALL)
            image.load()
            if image.mode == "P":
                image = image.convert("RGBA" if "transparency" in image.info else "RGB")
            colours = np.asarray(image)[..., :3] if image.mode == "RGBA" else np.asarray(image.convert("RGB"))
            return int(colours.min()), int(colours.max()), drawn_in_alpha(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # reported by the run
        return None
