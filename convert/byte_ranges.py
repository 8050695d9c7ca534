"""Byte ranges of tensors in a file, and how to read one tensor."""

import dataclasses
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxdino.core.errors import UserError

BLOCK_BYTES = 1 << 20


class BinaryFile:
    """A file open for reading at any offset, from any thread.

    It uses plain reads, not a memory map. A read copies each byte once, into the caller's array; the pages of a map
    would count as memory of this process in addition to that array. If the file is truncated meanwhile, a map
    kills the process, while a read only returns fewer bytes.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by close)
            self.size = self._file.seek(0, 2)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error

    def read_into(self, array: np.ndarray, offset: int) -> None:
        """Fill a contiguous uint8 array from `offset`. Raise UserError if the file ends too early."""
        view = memoryview(array)
        with self._lock:
            if self._file.closed:
                raise UserError(f"{self.path}: this source is closed; open_source() opens it again")
            self._file.seek(offset)
            while view:
                got = self._file.readinto(view)
                if not got:
                    raise UserError(f"{self.path}: the file ends early: {len(view)} bytes are missing")
                view = view[got:]

    def read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset`, or fewer at the end of the file."""
        array = np.empty(max(0, min(length, self.size - offset)), np.uint8)
        self.read_into(array, offset)
        return array.tobytes()

    def close(self) -> None:
        with self._lock:
            self._file.close()


@dataclass(frozen=True)
class ByteRange:
    """One tensor in a file: `start` in bytes, `stride` in elements (None if the tensor is contiguous)."""

    file: BinaryFile
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    swap: bool = False

    def read(self) -> np.ndarray:
        """Read the tensor as a new, writable, contiguous array; only its own bytes are read."""
        stride = self.stride or row_major(self.shape)
        raw = np.empty(extent(self.shape, stride) * self.dtype.itemsize, np.uint8)
        self.file.read_into(raw, self.start)
        if self.swap:
            raw = _swapped(raw, self.dtype)
        flat = raw.view(self.dtype)
        if self.stride is None:
            return flat.reshape(self.shape)
        steps = tuple(step * self.dtype.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps).copy(order="C")

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the tensor in blocks of its first axis of about BLOCK_BYTES; whole if it is not contiguous."""
        if self.stride is not None or not self.shape:
            yield self.read()
            return
        inner = math.prod(self.shape[1:]) * self.dtype.itemsize
        rows = max(1, BLOCK_BYTES // max(1, inner))
        for at in range(0, self.shape[0], rows):
            shape = (min(rows, self.shape[0] - at), *self.shape[1:])
            yield dataclasses.replace(self, start=self.start + at * inner, shape=shape).read()


@dataclass(frozen=True)
class Joined:
    """Several tensors concatenated on their first axis; `key` is its name in errors."""

    key: str
    parts: tuple[ByteRange, ...]

    @property
    def dtype(self) -> np.dtype:
        """Dtype shared by all parts.

        Raises:
          UserError: if they differ.
        """
        return self._common("dtype", [part.dtype for part in self.parts])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the concatenation: the first axes are added up.

        Raises:
          UserError: if the other axes differ.
        """
        inner = self._common("shape", [part.shape[1:] for part in self.parts])
        return (sum(part.shape[0] for part in self.parts), *inner)

    def read(self) -> np.ndarray:
        """Read the concatenation as a new array."""
        return np.concatenate([part.read() for part in self.parts])

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the concatenation in blocks of its first axis."""
        for part in self.parts:
            yield from part.blocks()

    def _common(self, what: str, values: list):
        if any(value != values[0] for value in values):
            raise UserError(f"the parts of {self.key} differ in {what}: {', '.join(map(str, values))}")
        return values[0]


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor, in elements."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def is_row_major(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Return whether the strides are those of a contiguous tensor; axes of length 1 may have any stride."""
    pairs = zip(shape, stride, row_major(shape), strict=True)
    return math.prod(shape) == 0 or all(n == 1 or step == plain for n, step, plain in pairs)


def is_addressable(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Return whether numpy can hold an array of this shape: an empty one may still have axes that are too long."""
    return math.prod(n for n in shape if n) * dtype.itemsize < 2**63


def extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Count the elements in memory from a tensor's first element to its last, both included."""
    if math.prod(shape) == 0:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))


def _swapped(raw: np.ndarray, dtype: np.dtype) -> np.ndarray:
    word = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    return raw.view(f"u{word}").byteswap().view(np.uint8)
