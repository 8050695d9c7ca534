"""Convert scenes to splits of pairs: number the prompts and skip pairs that are not used."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.data.pairs import Pair, Scene
from jaxdino.data.prompts import PromptConfig, check_prompts
from jaxdino.data.sources import DataConfig, Source, Split, ratios_of
from jaxdino.data.split_names import SPLITS
from jaxdino.data.splitting import stratified

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
    """Build pairs from scenes, with prompts as labels; the pairs of one image are consecutive.

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
            passed = ", ".join(f"{count} {what}" for what, count in (+ignored).items()) or "nothing"
            raise UserError(
                f"the {split} split of the data source {name!r} has {len(listed[split])} images and no pair of image "
                f"and mask; passed over in all: {passed}"
            )
        labels = np.array([label for label, _ in pairs], np.int32)
        splits[split] = Split(split, [pair for _, pair in pairs], labels, names, root)
    return Source(name, names, splits, dict(+ignored), dict(origins or {}))


def _pairs(
    scenes: list[Scene], names: tuple[str, ...], prompts: PromptConfig, training: bool, ignored: Counter
) -> list[tuple[int, Pair]]:
    """Return (label, pair) for each mask that is used."""
    labels, found = {name: label for label, name in enumerate(names)}, []
    for scene in scenes:
        present = tuple(sorted(labels[name] for name in scene.present))
        for name, mask in scene.masks.items():
            if name in scene.absent and prompts.empty == "skip":
                ignored["empty mask"] += 1
            elif mask is None and not (training and prompts.allow_unmasked):
                ignored["image without mask"] += 1
            else:
                found.append((labels[name], Pair(scene.image, mask, present)))
    return found


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
