"""Many texts in little memory: one array of bytes and one of offsets in place of a Python object for each text."""

import atexit
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

CHUNK = 1 << 16  # texts that are converted at a time
LARGE = 1 << 24  # bytes of an array that reading processes map from a file instead of a copy each


class Texts(Sequence[str]):
    """N texts, such as the paths of all images of a split.

    Args:
      blob: uint8, the UTF-8 bytes of all texts (file names keep invalid bytes, see `os.fsencode`).
      offsets: int64 (N + 1,): text i is blob[offsets[i] : offsets[i + 1]].
      prefix: what all texts begin with, such as "DIR/"; it is stored once.
    """

    def __init__(self, blob: np.ndarray, offsets: np.ndarray, prefix: str = ""):
        self.blob, self.offsets, self.prefix = blob, offsets, prefix

    @classmethod
    def of(cls, texts: Iterable[str], prefix: str = "") -> "Texts":
        """Pack texts; `prefix` comes in addition to them."""
        blobs: list[bytes] = []
        sizes: list[np.ndarray] = []
        part: list[bytes] = []

        def put() -> None:
            sizes.append(np.fromiter(map(len, part), np.int64, len(part)))
            blobs.append(b"".join(part))
            part.clear()

        for text in texts:
            part.append(os.fsencode(text))
            if len(part) == CHUNK:
                put()
        put()
        return cls(np.frombuffer(b"".join(blobs), np.uint8), _offsets(np.concatenate(sizes)), prefix)

    @classmethod
    def joined(cls, parts: Sequence["Texts"], prefix: str = "") -> "Texts":
        """Return the texts of all parts, without the prefixes of the parts."""
        blob = np.concatenate([part.blob[part.offsets[0] : part.offsets[-1]] for part in parts] or [np.empty(0, "u1")])
        sizes = [np.diff(part.offsets) for part in parts]
        return cls(blob, _offsets(np.concatenate(sizes or [np.empty(0, np.int64)])), prefix)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return Texts(self.blob, self.offsets[start : max(start, stop) + 1], self.prefix)
            return self.chosen(np.arange(start, stop, step))
        place = int(index)
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        return self.prefix + os.fsdecode(self.blob[self.offsets[place] : self.offsets[place + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        prefix = self.prefix
        return (prefix + os.fsdecode(one) for one in self.encoded())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Texts({len(self)}, prefix={self.prefix!r})"

    def encoded(self) -> Iterator[bytes]:
        """Iterate over the texts as bytes, without the prefix."""
        for start in range(0, len(self), CHUNK):
            ends = self.offsets[start : start + CHUNK + 1].tolist()
            part = self.blob[ends[0] : ends[-1]].tobytes()
            first = ends[0]
            for left, right in itertools.pairwise(ends):
                yield part[left - first : right - first]

    def below(self) -> "Texts":
        """Return the texts without the prefix."""
        return Texts(self.blob, self.offsets)

    def chosen(self, rows: np.ndarray | Sequence[int]) -> "Texts":
        """Return the texts of these rows, in this order."""
        rows = np.asarray(rows, np.int64)
        starts, sizes = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = _offsets(sizes)
        blob = np.empty(int(offsets[-1]), np.uint8)
        for first in range(0, len(rows), CHUNK):
            part = slice(first, first + CHUNK)
            count = int(sizes[part].sum())
            inside = np.arange(count) - np.repeat(offsets[:-1][part] - offsets[first], sizes[part])
            blob[offsets[first] : offsets[first] + count] = self.blob[np.repeat(starts[part], sizes[part]) + inside]
        return Texts(blob, offsets, self.prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (shared(self.blob), shared(self.offsets), self.prefix)


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


class OnDisk(str):
    """The path of a .npy file with an array that other processes map."""


_saved: dict[int, tuple[np.ndarray, OnDisk]] = {}
_folder: list[str] = []


def shared(array: np.ndarray) -> np.ndarray | OnDisk:
    """Return an array as it is sent to a reading process: itself if it is small, else a file that holds it.

    The file is in the folder of temporary files until this process ends, and is written once for each array. If it
    cannot be written, the array itself is sent.
    """
    if array.nbytes < LARGE:
        return np.asarray(array)
    if id(array) in _saved:
        return _saved[id(array)][1]
    source = array.filename if isinstance(array, np.memmap) and array.offset == _header(array) else None
    try:
        if source is None:
            if not _folder:
                _folder.append(tempfile.mkdtemp(prefix="jaxdino_"))
                atexit.register(_remove, os.getpid())
            source = os.path.join(_folder[0], f"{len(_saved)}.npy")
            np.save(source, array)
    except OSError:
        return np.asarray(array)
    _saved[id(array)] = array, OnDisk(source)  # the array is kept, so that its id stays its own
    return _saved[id(array)][1]


def _header(array: np.memmap) -> int:
    """Return the offset of a whole array in its .npy file, or -1 for a part of one."""
    name = str(array.filename or "")
    if not name.endswith(".npy"):
        return -1
    whole = np.load(name, mmap_mode="r")
    return whole.offset if whole.shape == array.shape and whole.dtype == array.dtype else -1


def opened(array: np.ndarray | OnDisk) -> np.ndarray:
    """Return the array that `shared` sent."""
    return np.load(array, mmap_mode="r") if isinstance(array, OnDisk) else array


def _reopened(blob: np.ndarray | OnDisk, offsets: np.ndarray | OnDisk, prefix: str) -> Texts:
    return Texts(opened(blob), opened(offsets), prefix)


def _remove(process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(_folder[0], ignore_errors=True)
