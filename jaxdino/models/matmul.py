"""Products of rows with a matrix in float32, whose gradient for the matrix XLA computes slowly on a CPU.

The gradient x^T g sums over the rows of both. XLA gives such a product to another library than all others, which takes
up to twice the time for large matrices. Where it pays, the narrower of x and g is therefore transposed and stored, and
the product is an ordinary one.
"""

import jax
from jax import lax

LARGE = 1 << 19
"""Numbers of a matrix, at least, for which the copy pays: 590 thousand in a feed-forward layer of 384 channels."""


@jax.custom_vjp
def matmul(x_NxI: jax.Array, w_IxO: jax.Array) -> jax.Array:
    """Compute x w (N, O) in x's dtype, float32."""
    return _forward(x_NxI, w_IxO)[0]


def _forward(x, w):
    return x @ w.astype(x.dtype), (x, w)


def _backward(residuals, g):
    x, w = residuals
    dx = lax.dot_general(g, w.astype(x.dtype), (((1,), (1,)), ((), ())))
    dw = lax.platform_dependent(x, g, cpu=_weight_gradient, default=_over_rows)
    return dx, dw.astype(w.dtype)


matmul.defvjp(_forward, _backward)


def _weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """Return x^T g (I, O)."""
    if x.shape[1] * g.shape[1] < LARGE:
        return _over_rows(x, g)
    if x.shape[1] > g.shape[1]:
        return stored(_weight_gradient(g, x)).T
    return stored(x.T) @ g


def _over_rows(x: jax.Array, g: jax.Array) -> jax.Array:
    return lax.dot_general(x, g, (((0,), (0,)), ((), ())))


def stored(x: jax.Array) -> jax.Array:
    """Return x, behind a barrier that keeps XLA from folding a transpose into the product that reads it."""
    return lax.optimization_barrier(x)
