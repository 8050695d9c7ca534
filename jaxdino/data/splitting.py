"""A stratified, seeded split that does not depend on order or on a random number library."""

import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np

from jaxdino.core.errors import UserError

SHOWN = 5  # names listed in a message


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


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}/".encode() + os.fsencode(key)).digest()
