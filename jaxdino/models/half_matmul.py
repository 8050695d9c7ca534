"""The linear layer in half precision: x W + b with float32 sums, forward and backward.

The product is rounded once, after the bias. Its gradients for a cotangent g (..., O) are dx = g W^T, dW = x^T g and
db = sum of g over the rows. Autodiff would give them a float32 g, which rules out the half-precision units; the rule
rounds g first. Weights may be float32: they are rounded inside the rule, and their gradients are never rounded.

On a CPU, XLA runs a matmul whose first operand is transposed in float32. A transpose that passes through a reshape is
copied instead, and the matmul stays in half precision. Copying the wider of x and g costs as much as the matmul;
hence the narrower one is copied, and, if that is g, the small result.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.models.rounding import rounded

HALF = (jnp.bfloat16, jnp.float16)
FEW, MANY = 2, 8
"""Rows for each column of g, at least, for which g is copied if it is the narrower one; for a `LARGE` result."""
LARGE = 1 << 20
"""Numbers of a gradient, more than which leave the caches before the optimiser reads them against their order."""


@jax.custom_vjp
def half_matmul(x: jax.Array, w: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Compute half-precision x (..., I) times w (I, ...) plus bias (shape of w without I), in x's dtype."""
    return rounded(half_sums(x, w, bias), x.dtype)


def _forward(x, w, bias):
    # By XLA's own rounding: it would keep the float32 sums for the gradient, which reads the result again.
    return half_sums(x, w, bias).astype(x.dtype), (x, w, bias)


def half_sums(x: jax.Array, w: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Compute `half_matmul` without the rounding, float32."""
    y = jnp.tensordot(x, w.astype(x.dtype), 1, preferred_element_type=jnp.float32)
    if bias is not None:
        y = y + bias.astype(jnp.float32).reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
    return y


def _backward(residuals, g):
    x, w, bias = residuals
    g = g.astype(x.dtype)
    columns = tuple(range(x.ndim - 1, g.ndim))
    contracted = ((columns, tuple(range(1, w.ndim))), ((), ()))
    dx = lax.dot_general(g, w.astype(x.dtype), contracted, preferred_element_type=jnp.float32).astype(x.dtype)
    dw = lax.platform_dependent(x, g, cpu=narrow_weight_gradient, default=_weight_gradient).astype(w.dtype)
    db = None if bias is None else column_sums(g, x.ndim - 1).astype(bias.dtype)
    return dx, dw, db


half_matmul.defvjp(_forward, _backward)


def _weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """Return x^T g (I, ...), float32."""
    rows = tuple(range(x.ndim - 1))
    return lax.dot_general(x, g, ((rows, rows), ((), ())), preferred_element_type=jnp.float32)


def narrow_weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """Return x^T g, float32; of many rows as (g^T x)^T if g is the narrower, so that XLA copies g and not x.

    Of few rows, x costs less than an optimiser that reads the gradient against its order in memory.
    """
    rows, n_in, n_out = math.prod(x.shape[:-1]), x.shape[-1], math.prod(g.shape[x.ndim - 1 :])
    few = MANY if n_in * n_out > LARGE else FEW
    if n_in <= n_out or n_out % 2 or g.ndim != x.ndim or rows < few * n_out:
        return _weight_gradient(x, g)
    halves = _weight_gradient(g, x).reshape(2, n_out // 2, n_in)  # without a reshape, XLA folds the transpose away
    return halves.transpose(2, 0, 1).reshape(n_in, n_out)


def column_sums(g: jax.Array, rows: int) -> jax.Array:
    """Sum g over its first `rows` axes, in float32."""
    return g.astype(jnp.float32).sum(axis=tuple(range(rows)))
