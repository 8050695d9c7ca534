"""Records: the images of a data set and what is known about each, by field."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.data.split_names import SPLITS
from jaxdino.data.stored import ImageFile


@dataclasses.dataclass(frozen=True)
class Split:
    """One split: N records, each an image with a value in every field.

    Attributes:
      name: "train", "val" or "test".
      records: N images: paths (str), files that are stored as bytes (`Stored`), or uint8 arrays (H, W, C).
      fields: {name: N values}, such as "label", int32 (N,), indices into `class_names`; see `fields`.
      class_names: names in label order; empty for unlabelled images.
      root: record names are shown relative to this folder, if they are files.
    """

    name: str
    records: Sequence[Any]
    fields: Mapping[str, Any]
    class_names: tuple[str, ...] = ()
    root: str | None = None

    def __post_init__(self):
        for name, values in self.fields.items():
            if len(values) != len(self.records):
                raise ValueError(f"{len(self.records)} records, but {len(values)} values of the field {name!r}")

    def __len__(self) -> int:
        return len(self.records)

    @property
    def labels(self) -> np.ndarray:
        """The class of each record, int32 (N,)."""
        return self.fields["label"]

    def chosen(self, rows: Sequence[int]) -> "Split":
        """Return the split with these records, in this order."""
        return dataclasses.replace(
            self,
            records=_of_rows(self.records, rows),
            fields={name: _of_rows(values, rows) for name, values in self.fields.items()},
        )

    def record_name(self, index: int) -> str:
        """Return the name of a record for messages: its path below the root (printable), or split and number."""
        record = self.records[index]
        if not isinstance(record, ImageFile):
            return f"{self.name}[{index}]"
        path = Path(str(record))
        if self.root is not None and path.is_relative_to(self.root):
            path = path.relative_to(self.root)
        return path.as_posix().encode("utf-8", "backslashreplace").decode()

    def counts(self) -> dict[str, int]:
        """Return the number of records of each class, in label order."""
        found = np.bincount(self.labels, minlength=len(self.class_names)).tolist()
        return dict(zip(self.class_names, found, strict=False))


def _of_rows(values: Any, rows: Sequence[int]) -> Any:
    """Return the values of some rows: packed ones stay packed, others become a list."""
    return values.chosen(rows) if hasattr(values, "chosen") else [values[row] for row in rows]


@dataclasses.dataclass(frozen=True)
class Source:
    """All splits of one data set.

    Attributes:
      ignored: counts of skipped files: {"hidden": 3, "not an image (.txt)": 1}.
      origins: {split: where it comes from, if its name does not say it: "Training", "20 % of train"}.
      notes: messages about the data for the user, one line each.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    ignored: dict[str, int] = dataclasses.field(default_factory=dict)
    origins: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> Split:
        """Return the split of that name. Raise UserError with the available splits if there is none."""
        if name not in self.splits:
            sizes = ", ".join(f"{key} ({len(split)} images)" for key, split in self.splits.items())
            ways = (
                f". Name its sub-folder with --config.data.{name}_split=NAME, or split off a share of train with "
                f"--config.data.{name}_ratio=0.2"
            )
            hint = ways if name in SPLITS[1:] else ""
            raise UserError(f"the data source {self.name!r} has no split {name!r}; found: {sizes}{hint}")
        return self.splits[name]
