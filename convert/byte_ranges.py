"""Where a tensor lies in a file, and how to fetch that one tensor."""

import math
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxdino.core.errors import UserError


class BinaryFile:
    """A file open for reading at any offset, from any thread.

    Plain reads rather than a memory map: each byte asked for lands once, in the caller's array; the pages of
    a map would count as this process's memory beside that array, and a file cut short under a map kills the
    process where a read only comes back short.
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
        """Fills a contiguous uint8 array from `offset`. UserError when the file ends before."""
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
        """`length` bytes from `offset`, or fewer where the file ends."""
        array = np.empty(max(0, min(length, self.size - offset)), np.uint8)
        self.read_into(array, offset)
        return array.tobytes()

    def close(self) -> None:
        with self._lock:
            self._file.close()


@dataclass(frozen=True)
class ByteRange:
    """One tensor in a file: `start` in bytes, `stride` in elements (None when rows follow each other)."""

    file: BinaryFile
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    swap: bool = False

    def read(self) -> np.ndarray:
        """The tensor as a fresh, writable, contiguous array; only its own bytes are fetched."""
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


@dataclass(frozen=True)
class Joined:
    """Several tensors, side by side on their first axis, as one: `key` names it in errors."""

    key: str
    parts: tuple[ByteRange, ...]

    @property
    def dtype(self) -> np.dtype:
        """Of every part.

        Raises:
          UserError: if they differ.
        """
        return self._common("dtype", [part.dtype for part in self.parts])

    @property
    def shape(self) -> tuple[int, ...]:
        """The first axes added up.

        Raises:
          UserError: if the other axes differ.
        """
        inner = self._common("shape", [part.shape[1:] for part in self.parts])
        return (sum(part.shape[0] for part in self.parts), *inner)

    def read(self) -> np.ndarray:
        """The whole as a fresh array."""
        return np.concatenate([part.read() for part in self.parts])

    def _common(self, what: str, values: list):
        if any(value != values[0] for value in values):
            raise UserError(f"the parts of {self.key} differ in {what}: {', '.join(map(str, values))}")
        return values[0]


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous tensor."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def is_row_major(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """True when the strides are the contiguous ones; axes of length 1 may step as they like."""
    pairs = zip(shape, stride, row_major(shape), strict=True)
    return math.prod(shape) == 0 or all(n == 1 or step == plain for n, step, plain in pairs)


def is_addressable(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether numpy can hold an array of this shape: one that is empty may still have axes of absurd length."""
    return math.prod(n for n in shape if n) * dtype.itemsize < 2**63


def extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from a tensor's first to its last one in memory, both counted."""
    if math.prod(shape) == 0:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))


def _swapped(raw: np.ndarray, dtype: np.dtype) -> np.ndarray:
    word = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    return raw.view(f"u{word}").byteswap().view(np.uint8)
