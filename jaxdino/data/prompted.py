"""Images with masks of text prompts: number the prompts, skip what is not used, list records by image."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.words import counted
from jaxdino.data.config import DataConfig
from jaxdino.data.prompts import PromptConfig, check_prompts
from jaxdino.data.record import Source, Split
from jaxdino.data.split_names import SPLITS
from jaxdino.data.splitting import ratios_of, stratified

Mask = np.ndarray | Callable[[int], np.ndarray] | None
"""uint8 (H, W) of 0, 1 and 255 (ignored), or a function that reads it, given the largest number of pixels allowed, and
may raise BadImage; None for an image without a mask."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt of an image, with its mask.

    Attributes:
      label: index of the prompt. present: the labels of all prompts that the image shows, including this one.
      seed: of the clicks in evaluation: the number of this prompt in its split.
    """

    label: int
    mask: Mask
    present: tuple[int, ...] = ()
    seed: int = 0

    def read_mask(self, max_pixels: int) -> np.ndarray | None:
        """Return uint8 (H, W) of 0, 1 and 255; None without a mask. Raise BadImage if it cannot be read."""
        return self.mask(max_pixels) if callable(self.mask) else self.mask


@dataclasses.dataclass(frozen=True)
class Scene:
    """One image with its masks by prompt text, as sources list it before prompts are numbered.

    Attributes:
      image: path of a file, or uint8 (H, W, 3).
      masks: {prompt: its mask}.
      absent: prompts in `masks` whose mask is empty.
      unpaired: prompts that the image shows without a mask of their own.
    """

    image: str | np.ndarray
    masks: Mapping[str, Mask]
    absent: tuple[str, ...] = ()
    unpaired: tuple[str, ...] = ()

    @property
    def present(self) -> tuple[str, ...]:
        """Return the prompts that the image shows."""
        return (*(name for name in self.masks if name not in self.absent), *self.unpaired)


Listed = dict[str, list[Scene]]  # {split: scenes}


def assemble(
    name: str,
    listed: Listed,
    names: Sequence[str],
    prompts: PromptConfig,
    root: str | None = None,
    ignored: Counter | None = None,
    origins: Mapping[str, str] | None = None,
) -> Source:
    """Build a source from scenes: a record for each image, with its prompts in the field "prompts".

    Args:
      name: name of the source.
      listed: {split: scenes}.
      names: the prompts, in label order.
      root: see `Split`.
      ignored: counts of what was skipped so far (see `Source`).
      origins: where splits come from (see `Source`).

    Raises:
      UserError: for an empty prompt or a split without pairs.
    """
    check_prompts(names, f"the data source {name!r}")
    names, ignored = tuple(names), Counter(ignored)
    splits = {}
    for split in SPLITS:
        if split not in listed:
            continue
        pairs = _pairs(listed[split], names, prompts, split == "train", ignored)
        if not pairs:
            passed = counted(ignored) or "nothing"
            raise UserError(
                f"the {split} split of the data source {name!r} has {len(listed[split])} images and no pair of image "
                f"and mask; passed over in all: {passed}"
            )
        images, prompts_of = zip(*pairs, strict=True)
        splits[split] = Split(split, images, {"prompts": prompts_of}, names, root)
    return Source(name, names, splits, dict(+ignored), dict(origins or {}))


def _pairs(
    scenes: list[Scene], names: tuple[str, ...], prompts: PromptConfig, training: bool, ignored: Counter
) -> list[tuple[str | np.ndarray, tuple[Prompt, ...]]]:
    """Return (image, its prompts) for each image with a mask that is used."""
    labels, found, seed = {name: label for label, name in enumerate(names)}, [], 0
    for scene in scenes:
        present, used = tuple(sorted(labels[name] for name in scene.present)), []
        for name, mask in scene.masks.items():
            if name in scene.absent and prompts.empty == "skip":
                ignored["empty mask"] += 1
            elif mask is None and not (training and prompts.allow_unmasked):
                ignored["image without mask"] += 1
            else:
                used.append(Prompt(labels[name], mask, present, seed))
                seed += 1
        if used:
            found.append((scene.image, tuple(used)))
    return found


def in_groups(split: Split, size: int) -> Split:
    """Return a split whose records have at most `size` prompts each; an image with more becomes several records."""
    images, groups = [], []
    for image, prompts in zip(split.records, split.fields["prompts"], strict=True):
        for start in range(0, len(prompts), size):
            images.append(image)
            groups.append(prompts[start : start + size])
    return dataclasses.replace(split, records=images, fields={"prompts": groups})


def count(split: Split) -> int:
    """Return the number of pairs of image and prompt."""
    return sum(map(len, split.fields["prompts"]))


def put_aside(listed: Listed, cfg: DataConfig, root: Path) -> Listed:
    """Fill a missing validation (or test) split with a share of the training images that have masks.

    Raises:
      UserError: if there are too few images to divide.
    """
    ratios = ratios_of(cfg, listed)
    if not ratios:
        return listed
    scenes, rest = [], []
    for scene in listed["train"]:
        (scenes if any(mask is not None for mask in scene.masks.values()) else rest).append(scene)
    keys = [Path(os.path.relpath(scene.image, root)).as_posix() for scene in scenes]
    parts = stratified(keys, np.zeros(len(keys), np.int32), ratios, cfg.split_seed, [root.name])
    shared = {name: [scenes[row] for row in rows] for name, rows in parts.items()}
    return listed | shared | {"train": shared["train"] + rest}
