"""The source "shards": what `jaxdino prepare` wrote, with the same images in the same order as their own source."""

from collections.abc import Callable

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.roots import existing
from jaxdino.data.shards import open_index, read_folder
from jaxdino.data.split_names import NONE
from jaxdino.data.stored import StoredRecords


def shards(cfg: DataConfig, field: str) -> Source:
    """List the images of shards. Splits are those that were written; `data.*_split=none` leaves one out.

    Raises:
      UserError: for a folder without complete shards, another field than they have, and named splits.
    """
    found = read_folder(existing(cfg.root, "shards"))
    if found.field != field:
        raise UserError(
            f"{found.folder} has the field {found.field!r}, and the task reads {field!r}: write it with "
            f"`jaxdino prepare --field {field}`"
        )
    if given := {split: name for split, name in cfg.given_splits.items() if name not in (None, NONE)}:
        raise UserError(f"data.{next(iter(given))}_split names a folder; shards have the splits they were written with")
    splits, left_out = {}, 0
    for split, files in found.splits.items():
        if cfg.given_splits[split] == NONE:
            left_out += sum(shard.records for shard in files)
            continue
        store, values = open_index(found, split)
        if field == "labels":
            values = np.asarray(values, np.float32)
        splits[split] = Split(split, StoredRecords(store), {field: values}, found.class_names)
    note = f"shards of the source {found.source}: {sum(len(files) for files in found.splits.values())} files"
    ignored = {"in a split that is left out": left_out} if left_out else {}
    return Source("shards", found.class_names, splits, ignored, {}, (note,))


FIELDS: dict[str, Callable[[DataConfig], Source]] = {
    "label": lambda cfg: shards(cfg, "label"),
    "labels": lambda cfg: shards(cfg, "labels"),
    "boxes": lambda cfg: shards(cfg, "boxes"),
}
