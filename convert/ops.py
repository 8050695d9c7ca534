"""What happens to a tensor between PyTorch's layout and Flax's: invertible, bit-exact, and without a copy."""

import dataclasses
from collections.abc import Callable

import numpy as np

Change = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Op:
    """A change of layout and its inverse, both views of their argument.

    Attributes:
      ours, theirs: dtypes of a leaf and of its tensor where these are no floating-point numbers.
    """

    name: str
    forward: Change
    inverse: Change
    ours: np.dtype | None = None
    theirs: np.dtype | None = None

    def shape(self, source: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape `forward` gives a tensor of shape `source`; None if it cannot take one."""
        try:
            return self.forward(np.broadcast_to(np.zeros((), bool), source)).shape
        except ValueError:
            return None


COPY = Op("copy", lambda a: a, lambda a: a)
LINEAR = Op("linear", lambda a: a.transpose(1, 0), lambda a: a.transpose(1, 0))
"""torch.nn.Linear's (out, in) and our (in, out)."""
CONV = Op("conv", lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
"""torch.nn.Conv2d's (out, in, h, w) and our (h, w, in, out)."""
TOKEN = Op("token", lambda a: a.reshape(1, a.shape[-1]), lambda a: a.reshape(1, 1, a.shape[-1]))
"""transformers' (1, 1, D) mask token and Meta's (1, D), which is ours."""
COUNT = Op("count", lambda a: a.astype(np.int32), lambda a: a.astype(np.int64), np.dtype(np.int32), np.dtype(np.int64))
"""A counter: torch's int64 scalar and our int32."""
