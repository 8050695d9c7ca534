"""Tensors to be written: declared with key, shape and dtype, computed one at a time."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from convert.ops import Op, contiguous


class Tensor(NamedTuple):
    """A tensor to be written: its key, shape, dtype, and the function that computes it."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]


class Shared:
    """A leaf that is split into several keys: read for the first, released after the last."""

    def __init__(self, array: Any, uses: int):
        self.array, self.uses, self._held = array, uses, None

    def take(self) -> np.ndarray:
        """Return the whole leaf."""
        held = np.asarray(self.array) if self._held is None else self._held
        self.uses -= 1
        self._held = held if self.uses > 0 else None
        return held


@dataclasses.dataclass(frozen=True)
class Part:
    """The n-th of `count` equal slices of a leaf's last axis, to be written."""

    leaf: Shared
    op: Op
    n: int
    count: int

    def _cut(self, array: np.ndarray) -> np.ndarray:
        if self.count == 1:
            return array
        size = array.shape[-1] // self.count
        return array[..., self.n * size : (self.n + 1) * size]

    def shape(self) -> tuple[int, ...]:
        """Shape of the written tensor."""
        return self.op.inverse(self._cut(np.broadcast_to(np.zeros((), bool), self.leaf.array.shape))).shape

    def __call__(self) -> np.ndarray:
        return contiguous(self.op.inverse(self._cut(self.leaf.take())))
