"""DINOv3's rotary position embedding, as products with tables.

A rotation by the angle t maps (a, b), the entries i and i + d / 2 of a head, to (a cos t - b sin t, b cos t + a sin t).
With the sign in the table of sines, this is x cos + swap(x) sin, where swap exchanges the two halves. The tables have a
row for every token, the identity (1 and 0) for class and register tokens, so that no array is split or concatenated.
The gradient is the rotation by -t.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Tables = tuple[jax.Array, jax.Array]


def rope_periods(head_dim: int, base: float) -> np.ndarray:
    """Return DINOv3's rotary periods base^(4 i / head_dim), i < head_dim / 4, float32.

    Meta's released checkpoints hold them rounded to bfloat16, and an import keeps the values of the file; this formula
    is for layouts without them. Source: facebookresearch/dinov3 dinov3/layers/rope_position_encoding.py.
    """
    exponent = np.arange(head_dim // 4, dtype=np.float32) * np.float32(4 / head_dim)
    return np.float32(base) ** exponent


def rope_tables(h: int, w: int, periods: jax.Array, prefix: int) -> Tables:
    """Return signed sin and cos (prefix + h * w, head_dim) float32 for `prefix` tokens and a patch grid.

    Angles of y come before those of x, and both are repeated for the second half, where the sine is positive. Patch
    centres are normalised to [-1, 1] on each axis separately ("separate").
    Source: facebookresearch/dinov3 dinov3/layers/rope_position_encoding.py.
    """
    ys = 2.0 * (np.arange(h, dtype=np.float32) + 0.5) / h - 1.0
    xs = 2.0 * (np.arange(w, dtype=np.float32) + 0.5) / w - 1.0
    centres = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(h * w, 2, 1).astype(np.float32)
    angles = 2.0 * math.pi * jnp.asarray(centres) / periods.astype(jnp.float32)[None, None, :]
    angles = jnp.pad(angles.reshape(h * w, -1), ((prefix, 0), (0, 0)))  # an angle of 0: the identity
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    return _kept(jnp.concatenate([-sin, sin], axis=-1)), _kept(jnp.concatenate([cos, cos], axis=-1))


def _kept(table: jax.Array) -> jax.Array:
    """Return the table, by way of a product with the identity on a CPU, which has the same bits.

    XLA does not merge a matmul with its uses (it drops `lax.optimization_barrier` there): measured, the forward pass of
    three blocks of DINOv3 is 1.14 x as fast with it.
    """

    def times_identity(table):
        return jnp.matmul(table, jnp.eye(table.shape[1], dtype=table.dtype), precision="highest")

    return lax.platform_dependent(table, cpu=times_identity, default=lambda table: table)


@jax.custom_vjp
def rotate(x_BxHxNxd: jax.Array, sin: jax.Array, cos: jax.Array) -> jax.Array:
    """Rotate each token by its row of tables like those of `rope_tables`, in float32; x's dtype out.

    Source: facebookresearch/dinov3 dinov3/layers/attention.py (apply_rope).
    """
    x = x_BxHxNxd.astype(jnp.float32)
    return (x * cos[None, None] + _swap(x_BxHxNxd).astype(jnp.float32) * sin[None, None]).astype(x_BxHxNxd.dtype)


def _swap(x: jax.Array) -> jax.Array:
    return jnp.roll(x, x.shape[-1] // 2, axis=-1)


def _rotate_fwd(x, sin, cos):
    return rotate(x, sin, cos), (x, sin, cos)


def _rotate_bwd(residuals, g):
    x, sin, cos = residuals
    x32, g32 = x.astype(jnp.float32), g.astype(jnp.float32)
    return rotate(g, -sin, cos), jnp.sum(g32 * _swap(x32), axis=(0, 1)), jnp.sum(g32 * x32, axis=(0, 1))


rotate.defvjp(_rotate_fwd, _rotate_bwd)
