"""Rounding from float32 to bfloat16 by operations on whole numbers, which XLA computes faster on a CPU.

A loop that ends with LLVM's conversion is not vectorised well, all that it computes included: GELU of bfloat16 alone
took twice the time.
"""

import jax
import jax.numpy as jnp
from jax import lax


def rounded(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return x in a dtype, rounded to the nearest number, of two to the even one: `x.astype(dtype)`.

    x is the result of a computation: a signalling NaN, which none gives, would become infinite.
    """
    if x.dtype != jnp.float32 or dtype != jnp.bfloat16 or jax.default_backend() != "cpu":
        return x.astype(dtype)
    return _rounded(x)


@jax.custom_jvp
def _rounded(x: jax.Array) -> jax.Array:
    exact = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    upper = lax.bitcast_convert_type(exact, jnp.uint32) >> 16
    return lax.bitcast_convert_type(upper.astype(jnp.uint16), jnp.bfloat16)


_rounded.defjvps(lambda tangent, _, x: tangent.astype(jnp.bfloat16))
