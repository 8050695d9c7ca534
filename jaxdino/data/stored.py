"""Images that are stored as bytes in larger files: shards, TFDS, tables. Each is read when it is opened."""

import io
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np


class Store(Protocol):
    """Where encoded images are stored. A store is sent to reading processes, and opens its files in each."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def name(self, row: int) -> str:
        """Return the name of an image, such as its path below the folder that it came from."""
        ...

    def size(self, row: int) -> int:
        """Return the number of bytes of an image, or -1 if it is not known without reading it."""
        ...

    def read(self, row: int) -> bytes:
        """Return the bytes of an image file. Raises OSError, or an error of the library that reads it."""
        ...


class Stored:
    """One encoded image in a store."""

    __slots__ = ("row", "store")

    def __init__(self, store: Store, row: int):
        self.store, self.row = store, row

    @property
    def size(self) -> int:
        """Bytes of the image."""
        known = self.store.size(self.row)
        return known if known >= 0 else len(self.store.read(self.row))

    def open(self) -> BinaryIO:
        """Return the image file's bytes as an open file."""
        return io.BytesIO(self.store.read(self.row))

    def __str__(self) -> str:
        return self.store.name(self.row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stored) and other.store is self.store and other.row == self.row

    def __hash__(self) -> int:
        return hash((id(self.store), self.row))

    def __reduce__(self) -> tuple[Any, ...]:
        return Stored, (self.store, self.row)


ImageFile = str | Stored
"""An image file: its path, or its bytes in a store."""


class StoredRecords(Sequence[Stored]):
    """The images of a store, or those of some rows, as the records of a split."""

    def __init__(self, store: Store, rows: np.ndarray | None = None):
        self.store, self.rows = store, rows

    def __len__(self) -> int:
        return len(self.store) if self.rows is None else len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.chosen(np.arange(*index.indices(len(self))))
        place = int(index) + (len(self) if index < 0 else 0)
        if not 0 <= place < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return Stored(self.store, place if self.rows is None else int(self.rows[place]))

    def chosen(self, rows: np.ndarray | Sequence[int]) -> "StoredRecords":
        """Return the images of these rows, in this order."""
        rows = np.asarray(rows, np.int64)
        return StoredRecords(self.store, rows if self.rows is None else self.rows[rows])
