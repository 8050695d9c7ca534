"""Products of rows with a matrix in float32, in forms that XLA computes fast on a CPU.

Many rows and a large matrix: XLA runs through all rows for each tile of the matrix, and both leave the caches. Such a
product is computed for some rows at a time. The same holds for the gradient of the rows.

The gradient of the matrix, x^T g, sums over the rows of both. XLA gives such a product to another library than all
others, which takes up to twice the time for large matrices. Where it pays, x or g is therefore transposed and stored,
and the product is an ordinary one: of many rows the narrower of the two, of few rows x, since an optimiser reads the
result of g^T x against the order in memory.
"""

import os

import jax
from jax import lax

from jaxdino.core import sharding
from jaxdino.models import remat

LARGE = 1 << 19
"""Numbers of a matrix, at least, whose gradient takes this form; 590 thousand in a layer of 384 to 1,536."""
FEW = 2
"""Rows for each column of g, at least, for which g is transposed if it is the narrower one."""
SIDE = 512
"""Rows and columns of a matrix, at least, for which parts pay."""
ROWS = 512
"""Rows that are computed at a time, at most, for each core of the processor; four times as many are divided."""


@jax.custom_vjp
def matmul(x_NxI: jax.Array, w_IxO: jax.Array) -> jax.Array:
    """Compute x w (N, O) in x's dtype, float32."""
    return _forward(x_NxI, w_IxO)[0]


def _forward(x, w):
    return _product(x, w.astype(x.dtype), 0), (x, w)


def _backward(residuals, g):
    x, w = residuals
    dw = lax.platform_dependent(x, g, cpu=_weight_gradient, default=_over_rows)
    return _product(g, w.astype(x.dtype), 1), dw.astype(w.dtype)


matmul.defvjp(_forward, _backward)


def _product(x: jax.Array, w: jax.Array, axis: int) -> jax.Array:
    """Return the sums over the last axis of x (N, ...) and an axis of w (I, O)."""

    def product(some: jax.Array) -> jax.Array:
        return lax.dot_general(some, w, (((1,), (axis,)), ((), ())))

    parts = _parts(x, w)
    if parts == 1:
        return product(x)
    return lax.map(product, x.reshape(parts, -1, x.shape[1])).reshape(len(x), -1)


def _parts(x: jax.Array, w: jax.Array) -> int:
    """Return in how many parts of the same size the rows of x are computed; 1 of anything but a single CPU device."""
    rows = x.shape[0]
    known = isinstance(rows, int)  # an exported program has any batch size
    if not known or min(w.shape) < SIDE or jax.default_backend() != "cpu" or sharding.devices() > 1 or remat.within():
        return 1
    most = ROWS * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    found = (n for n in range(2, rows) if rows % n == 0 and most // 2 <= rows // n <= most)
    return next(found, 1) if rows >= 4 * most else 1


def _weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """Return x^T g (I, O)."""
    if x.shape[1] * g.shape[1] < LARGE:
        return _over_rows(x, g)
    if x.shape[1] > g.shape[1] and len(x) >= FEW * g.shape[1]:
        return stored(stored(g.T) @ x).T
    return stored(x.T) @ g


def _over_rows(x: jax.Array, g: jax.Array) -> jax.Array:
    return lax.dot_general(x, g, (((0,), (0,)), ((), ())))


def stored(x: jax.Array) -> jax.Array:
    """Return x, behind a barrier that keeps XLA from folding a transpose into the product that reads it."""
    return lax.optimization_barrier(x)
