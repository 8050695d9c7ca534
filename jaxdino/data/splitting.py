"""Split off shares of the training images: stratified, seeded, independent of order and random number libraries."""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.data.config import DataConfig
from jaxdino.data.packed import Texts

SHOWN = 5  # names listed in a message
File = TypeVar("File", bound=tuple[Any, ...])
CHUNK = 1 << 16  # keys whose digests are held at a time


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
    chosen: dict[str, list[np.ndarray]] = {"train": [], **{name: [] for name in ratios}}
    few: list[str] = []
    labels = np.asarray(labels)
    by_hash = ordered(keys, seed)
    by_class = by_hash[np.argsort(labels[by_hash], kind="stable")]
    ends = np.searchsorted(labels[by_class], np.arange(len(class_names) + 1))
    for label, class_name in enumerate(class_names):
        rows = by_class[ends[label] : ends[label + 1]]
        takes = {name: max(1, round(ratio * len(rows))) for name, ratio in ratios.items()}
        if sum(takes.values()) >= len(rows):
            few.append(f"{class_name!r} ({len(rows)})")
            continue
        for name, take in takes.items():
            chosen[name].append(rows[:take])
            rows = rows[take:]
        chosen["train"].append(rows)
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
    return {name: np.sort(np.concatenate(rows)) for name, rows in chosen.items()}


def keeping_classes(
    keys: Sequence[str], sets: Sequence[Sequence[str]], which: np.ndarray, ratios: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Split off shares of images with any number of classes, in the order of a hash as `stratified`.

    Train keeps the last image that it has of a class.

    Args:
      sets: the different sets of classes. which: int (N,), the set of each record. keys, ratios, seed: as for
        `stratified`.

    Returns:
      {"train" and each split: indices into `keys`, ascending}.
    """
    left = Counter()
    for one, count in enumerate(np.bincount(which, minlength=len(sets)).tolist()):
        left.update(dict.fromkeys(sets[one], count))
    chosen: dict[str, list[int]] = {split: [] for split in ratios}
    sizes = {split: max(1, round(ratio * len(keys))) for split, ratio in ratios.items()}
    train = np.ones(len(keys), bool)
    for place in ordered(keys, seed):
        split = next((split for split, size in sizes.items() if len(chosen[split]) < size), None)
        if split is None:
            break
        names = sets[which[place]]
        if all(left[name] > 1 for name in names):
            chosen[split].append(int(place))
            train[place] = False
            left.subtract(names)
    found = {split: np.array(sorted(places), np.int64) for split, places in chosen.items()}
    return found | {"train": np.flatnonzero(train)}


def ordered(keys: Sequence[str], seed: int) -> np.ndarray:
    """Return the rows of keys in the order of sha256(seed, key), equal keys in the order given; little memory."""
    texts = keys.encoded() if isinstance(keys, Texts) else map(os.fsencode, keys)
    head, of = f"{seed}/".encode(), hashlib.sha256
    ranks = np.empty(len(keys), np.uint64)
    for first in range(0, len(keys), CHUNK):
        digests = b"".join([of(head + text).digest() for text in itertools.islice(texts, CHUNK)])
        ranks[first : first + CHUNK] = np.frombuffer(digests, ">u8")[::4]
    rows = np.argsort(ranks, kind="stable")
    same = np.flatnonzero(ranks[rows][1:] == ranks[rows][:-1])
    if len(same):  # 8 of the 32 bytes are equal: by all of them
        places = np.flatnonzero(np.isin(ranks[rows], ranks[rows][same]))
        rows[places] = sorted(rows[places].tolist(), key=lambda row: (_rank(seed, keys[row]), row))
    return rows


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
