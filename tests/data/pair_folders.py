"""Folders of images and masks as tests write them, and what is read of them."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxdino.data.prompted import Prompt, in_groups
from jaxdino.data.sources import load_source

MAX = 2**20


def save(path, array, palette=False, **options):
    """An array as an image file; folders as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array))
    if palette:  # colours that have nothing to do with the indices
        image = image.convert("L")
        image.putpalette([(37 * i + 9) % 256 for i in range(768)])
    image.save(path, **options)
    return path


def photo(path, size=(8, 10)):
    return save(path, np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))


def with_ones(*values, dtype=np.uint8, size=(8, 10)):
    """A mask of zeros with some pixels of each value, in a row of its own."""
    mask = np.zeros(size, dtype)
    for row, value in enumerate(values):
        mask[row + 1, 2:7] = value
    return mask


def masks_folder(root, masks, **options):
    """images/<name>.png, masks/<name>.png for each {name: mask}."""
    for name, mask in masks.items():
        photo(root / "images" / f"{name}.png")
        if mask is not None:
            save(root / "masks" / f"{name}.png", mask, **options)
    return root


class Pair(NamedTuple):
    """One prompt of one image."""

    image: object
    prompt: Prompt


def load_pairs(cfg, prompts=None):
    return load_source(cfg, "prompts", prompts)


def pairs(split):
    """Every prompt of a split with its image."""
    each = in_groups(split, 1)
    return [Pair(image, prompt) for image, (prompt,) in zip(each.records, each.fields["prompts"], strict=True)]


def load(root, prompts=None, name="masks", **options):
    return load_pairs({"name": name, "root": str(root), "val_ratio": 0.0, **options}, prompts)


def listed(split):
    """[(file, prompt, mask sums by value)] of a split."""
    found = []
    for index, prompts in enumerate(split.fields["prompts"]):
        for prompt in prompts:
            mask = prompt.read_mask(MAX)
            counts = None if mask is None else tuple(int((mask == value).sum()) for value in (1, 255))
            found.append((split.record_name(index), split.class_names[prompt.label], counts))
    return found
