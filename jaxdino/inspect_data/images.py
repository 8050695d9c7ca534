"""The images of a data set as one list, over all splits, with the classes of each."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdino.data.boxes import BoxedSource, Boxes
from jaxdino.data.record import Source, Split
from jaxdino.data.shards import ShardStore
from jaxdino.data.stored import Stored


@dataclasses.dataclass(frozen=True)
class Images:
    """All images of a source, numbered from 0 over its splits in their order.

    Attributes:
      source: the splits with their records. boxes: those of the images, if the source has boxes.
      masks: the mask file of each image, if the source has masks.
    """

    source: Source
    boxes: Boxes | None = None
    masks: Sequence[str] | None = None

    @classmethod
    def with_boxes(cls, found: BoxedSource) -> "Images":
        """Return the images of a source with their boxes."""
        return cls(found.source, found.boxes)

    def __len__(self) -> int:
        return sum(map(len, self.splits))

    @functools.cached_property
    def splits(self) -> list[Split]:
        """The splits in order."""
        return list(self.source.splits.values())

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """The number of the first image of each split, int64."""
        return np.cumsum([0, *map(len, self.splits)])[:-1]

    @functools.cached_property
    def split(self) -> np.ndarray:
        """The split of each image, uint8 (N,), an index into `splits`."""
        return np.repeat(np.arange(len(self.splits), dtype=np.uint8), [len(split) for split in self.splits])

    @functools.cached_property
    def records(self) -> list[Any]:
        """The records of all splits: paths, or arrays."""
        return [record for split in self.splits for record in split.records]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The classes of the images, int64 (K, 2) of (image, class), sorted; an image may have none or several.

        The classes of an image with boxes are those of its boxes.
        """
        parts = [np.zeros((0, 2), np.int64)]
        if self.boxes is not None:
            known = self.boxes.label >= 0
            parts.append(np.stack([self.boxes.row[known], self.boxes.label[known]], axis=1))
        for start, split in zip(self.starts, self.splits, strict=True):
            if "label" in split.fields and split.class_names:
                parts.append(np.stack([start + np.arange(len(split)), np.asarray(split.labels)], axis=1))
            elif "labels" in split.fields:
                parts.append(np.argwhere(np.asarray(split.fields["labels"])) + np.array([start, 0]))
        row, label = np.concatenate(parts).astype(np.int64).T
        classes = max(1, len(self.source.class_names))
        return np.stack(np.divmod(np.unique(row * classes + label), classes), axis=1)

    @property
    def whole_labels(self) -> bool:
        """Whether the classes are those of whole images, not of boxes in them."""
        return self.boxes is None and len(self.labels) > 0

    def classes_of(self, row: int) -> tuple[str, ...]:
        """Return the names of the classes of an image."""
        first, last = np.searchsorted(self.labels[:, 0], [row, row + 1])
        return tuple(self.source.class_names[label] for label in self.labels[first:last, 1])

    def path(self, row: int) -> str:
        """Return the path of an image; its name if it is stored as bytes or an array."""
        record = self.records[row]
        return record if isinstance(record, str) else self.name(row)

    def name(self, row: int) -> str:
        """Return the name of an image for messages: its path below the root, or "train[5]" for an array.

        An image that is stored as bytes is named by its source and place: "hf:train/5", "shards:train/cat/1.jpg".
        """
        number = int(self.split[row])
        split = self.splits[number]
        name = split.record_name(row - int(self.starts[number]))
        record = self.records[row]
        if not isinstance(record, Stored):
            return name
        if isinstance(record.store, ShardStore):  # the other stores name their own split
            name = f"{split.name}/{name.removeprefix(f'{split.name}/')}"
        return f"{self.source.name}:{name}"

    def split_name(self, row: int) -> str:
        """Return the name of the split of an image."""
        return self.splits[int(self.split[row])].name
