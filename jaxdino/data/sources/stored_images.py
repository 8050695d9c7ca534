"""Images that a library stores as bytes, with their classes: divide them into splits, and make a source of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.core.words import few
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.split_names import SPLITS, assign, missing_train
from jaxdino.data.splitting import keeping_classes, origins, ratios_of, stratified
from jaxdino.data.stored import Store, StoredRecords

SHOWN = 5  # names listed in a message


class SeveralClasses(UserError):
    """Images have none or several classes, where one is needed."""


class Classes(NamedTuple):
    """The classes of the images of a split: the different sets of them, and int32 (N,), the set of each image."""

    sets: Sequence[tuple[str, ...]]
    which: np.ndarray

    @classmethod
    def of(cls, values: Iterable[tuple[str, ...]]) -> "Classes":
        """Number the classes of each image."""
        known: dict[tuple[str, ...], int] = {}
        which = np.fromiter((known.setdefault(value, len(known)) for value in values), np.int32)
        return cls(list(known), which)


def chosen_splits(cfg: DataConfig, names: Sequence[str], where: str) -> dict[str, str]:
    """Return {split: name of the stored split}. Raises UserError without a training split, and as `assign`."""
    if len(names) == 1 and not any(cfg.given_splits.values()):
        return {"train": names[0]}
    found = assign(names, cfg.given_splits, where)
    if "train" not in found:
        raise missing_train(where, found, names)
    return found


def chosen_column(
    names: Sequence[str], given: str | None, usual: Sequence[str], what: str, flag: str, where: str
) -> str:
    """Return the column of the images or the classes: the given one, a usual name, or the only one there is.

    Raises:
      UserError: if the given one does not exist, there is none, or there are several.
    """
    if given is not None:
        if given not in names:
            raise UserError(f"{flag}={given}: {where} has no such {what}; {did_you_mean(given, names)}")
        return given
    usual = [name for name in usual if name in names]
    if usual or len(names) == 1:
        return (usual or list(names))[0]
    if not names:
        raise UserError(f"{where} has no {what}")
    raise UserError(
        f"{where} has several columns that could be the {what}: {few(names, SHOWN)}. Choose with {flag}=NAME"
    )


def source_of(
    name: str,
    cfg: DataConfig,
    field: str,
    stores: Mapping[str, Store],
    classes: Mapping[str, Classes],
    names: tuple[str, ...] | None,
    called: Mapping[str, str],
    notes: Sequence[str],
) -> Source:
    """Return the source of stored images.

    Args:
      stores, classes: {split: its images, and their classes}. names: all classes in order; None sorts those that occur.

    Raises:
      UserError: for fewer than two classes, images of several classes with "label", and classes that train lacks.
    """
    known = {split: sorted({one for names in found.sets for one in names}) for split, found in classes.items()}
    names = names or tuple(sorted({one for found in known.values() for one in found}))
    if len(names) < 2:
        raise UserError(f"the data source {name!r} has only one class, {few(names, 1)!r}; a classifier needs two")
    for split, found in known.items():
        if new := [one for one in found if one not in known["train"]]:
            raise UserError(f"no image of train has the class(es) {few(new, SHOWN)} of {split}")
    if field == "label" and any(len(one) != 1 for found in classes.values() for one in found.sets):
        raise SeveralClasses(
            f"images of the data source {name!r} have none or several classes: use --config=multilabel"
        )
    place = {one: label for label, one in enumerate(names)}
    rows = {split: np.arange(len(found.which)) for split, found in classes.items()}
    origin = dict.fromkeys(SPLITS, "train") | {split: split for split in stores}
    rows |= _divided(cfg, stores["train"], classes["train"], field, names, ratios_of(cfg, stores))
    splits = {}
    for split in (split for split in SPLITS if split in rows):
        found, records = classes[origin[split]], StoredRecords(stores[origin[split]])
        if field == "label":
            table: Any = np.array([place[one[0]] for one in found.sets], np.int32)
        else:
            table = np.zeros((len(found.sets), len(names)), np.float32)
            for value, one in zip(table, found.sets, strict=True):
                value[[place[each] for each in one]] = 1
        whole = len(rows[split]) == len(records)
        values = {field: table[found.which[rows[split]]]}
        splits[split] = Split(split, records if whole else records.chosen(rows[split]), values, names)
    how = "stratified, " if field == "label" else ""
    return Source(name, names, splits, {}, origins(cfg, called, how), tuple(notes))


def _divided(
    cfg: DataConfig, store: Store, classes: Classes, field: str, names: Sequence[str], ratios: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Return the rows of train in each split that takes a share of it."""
    if not ratios:
        return {}
    keys = [store.name(row) for row in range(len(store))]
    if field != "label":
        return keeping_classes(keys, classes.sets, classes.which, ratios, cfg.split_seed)
    there = [name for name in names if (name,) in set(classes.sets)]
    table = np.array([there.index(one[0]) for one in classes.sets], np.int32)
    return stratified(keys, table[classes.which], ratios, cfg.split_seed, there)
