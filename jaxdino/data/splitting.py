"""Split off shares of the training images: stratified, seeded, independent of order and random number libraries."""

import hashlib
import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.data.config import DataConfig

SHOWN = 5  # names listed in a message
File = TypeVar("File", bound=tuple[Any, ...])


def stratified(
    keys: Sequence[str],
    labels: np.ndarray,
    ratios: Mapping[str, float],
    seed: int,
    class_names: Sequence[str],
) -> dict[str, np.ndarray]:
    """Split off a share of every class, by a hash of each record's key.

    A class is ordered by sha256(seed, key): the same on every machine and library version, and adding a file moves
    few of the others.

    Args:
      keys: N names that stay the same from run to run (relative paths).
      labels: int (N,).
      ratios: {split: share of each class}, at least one record each; "train" is what remains.
      seed: another seed gives another split.
      class_names: for messages; a single one means that there are no classes, as for masks.

    Returns:
      {"train" and each split: int64 indices into `keys`, ascending}.

    Raises:
      UserError: if a class is too small to give every split a record.
    """
    chosen: dict[str, list[int]] = {"train": [], **{name: [] for name in ratios}}
    few: list[str] = []
    for label, class_name in enumerate(class_names):
        rows = sorted(np.flatnonzero(labels == label).tolist(), key=lambda i: _rank(seed, keys[i]))
        takes = {name: max(1, round(ratio * len(rows))) for name, ratio in ratios.items()}
        if sum(takes.values()) >= len(rows):
            few.append(f"{class_name!r} ({len(rows)})")
            continue
        for name, take in takes.items():
            chosen[name] += rows[:take]
            rows = rows[take:]
        chosen["train"] += rows
    if few:
        more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
        splits, flags = ", ".join(chosen), ", ".join(f"--config.data.{name}_split=NAME" for name in ratios)
        if len(class_names) == 1:
            raise UserError(
                f"too few images to divide among {splits}: {len(keys)}. Add images, or name each split: {flags}"
            )
        raise UserError(
            f"too few images to divide among {splits}, of {len(few)} of the {len(class_names)} classes: "
            f"{', '.join(few[:SHOWN])}{more}. Add images, remove these classes, or name a folder for each split: "
            f"{flags}"
        )
    return {name: np.array(sorted(rows), np.int64) for name, rows in chosen.items()}


def keeping_classes(
    keys: Sequence[str], classes: Sequence[Sequence[str]], ratios: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Split off shares of images with any number of classes, in the order of a hash as `stratified`.

    Train keeps the last image that it has of a class.

    Args:
      classes: the names of the classes of each of the N records. keys, ratios, seed: as for `stratified`.

    Returns:
      {"train" and each split: indices into `keys`, ascending}.
    """
    left = Counter(name for names in classes for name in names)
    chosen: dict[str, list[int]] = {split: [] for split in (*ratios, "train")}
    sizes = {split: max(1, round(ratio * len(keys))) for split, ratio in ratios.items()}
    for place in sorted(range(len(keys)), key=lambda i: _rank(seed, keys[i])):
        open_one = next((split for split, size in sizes.items() if len(chosen[split]) < size), "train")
        split = open_one if all(left[name] > 1 for name in classes[place]) else "train"
        chosen[split].append(place)
        left.subtract(classes[place] if split != "train" else ())
    return {split: sorted(places) for split, places in chosen.items()}


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}/".encode() + os.fsencode(key)).digest()


def ratios_of(cfg: DataConfig, found: Container[str]) -> dict[str, float]:
    """Return {split: share of train to split off} for the splits that were not found."""
    wanted = {"val": cfg.val_ratio, "test": cfg.test_ratio}
    return {name: ratio for name, ratio in wanted.items() if name not in found and ratio > 0}


def shared_out(files: Mapping[str, Sequence[File]], cfg: DataConfig, top: Path) -> dict[str, list[File]]:
    """Fill a missing validation (or test) split with a share of the training images, without regard to classes.

    Args:
      files: {split: tuples that begin with the path of an image}. top: the root of the paths.

    Raises:
      UserError: if there are too few images to divide.
    """
    ratios, train = ratios_of(cfg, files), files["train"]
    if not ratios:
        return {split: list(found) for split, found in files.items()}
    keys = [Path(os.path.relpath(file[0], top)).as_posix() for file in train]
    parts = stratified(keys, np.zeros(len(keys), np.int32), ratios, cfg.split_seed, [top.name])
    shares = {split: [train[row] for row in rows] for split, rows in parts.items()}
    return {**{split: list(found) for split, found in files.items()}, **shares}


def origins(cfg: DataConfig, called: Mapping[str, str], how: str = "stratified, ") -> dict[str, str]:
    """Return where splits come from (see `Source`): paths `called` below the root, and shares split off from train."""
    found = {split: name for split, name in called.items() if name not in (split, ".")}
    shares = ratios_of(cfg, called).items()
    return found | {name: f"{100 * ratio:.3g} % of train, {how}seed {cfg.split_seed}" for name, ratio in shares}
