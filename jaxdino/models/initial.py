"""Random parameters: `jax.random`'s numbers, drawn so that few programs are compiled.

JAX compiles a draw anew for each shape, which takes longer than drawing; a network has dozens of shapes. A number's
value depends on the key and its place alone (jax_threefry_partitionable), so that the first n of a longer draw are a
draw of n: lengths are rounded up to powers of two.
"""

import math
import typing
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

SHORTEST = 2**14


class ShapesOnly:
    """Stands where `nnx.Rngs` would, for networks of which shapes alone are wanted: all draws are zeros."""

    def params(self) -> None:
        """No key."""


SHAPES_ONLY = typing.cast(nnx.Rngs, ShapesOnly())
"""Given as the `nnx.Rngs` of a network."""


def normal(rngs: nnx.Rngs | ShapesOnly, shape: tuple[int, ...], std: float = 1.0) -> jax.Array:
    """Of mean 0, float32."""
    return _draw(jax.random.normal, rngs, shape, std)


def truncated_normal(rngs: nnx.Rngs | ShapesOnly, shape: tuple[int, ...], std: float = 0.02) -> jax.Array:
    """A normal of mean 0 and `std` cut off at two `std`, float32; its own standard deviation is 0.88 `std`."""
    return _draw(lambda key, size: jax.random.truncated_normal(key, -2.0, 2.0, size), rngs, shape, std)


def uniform(rngs: nnx.Rngs | ShapesOnly, shape: tuple[int, ...], bound: float) -> jax.Array:
    """Between -bound and bound, float32."""
    return _draw(lambda key, size: jax.random.uniform(key, size, jnp.float32, -bound, bound), rngs, shape)


def _draw(draw: Callable, rngs: nnx.Rngs | ShapesOnly, shape: tuple[int, ...], scale: float = 1.0) -> jax.Array:
    if isinstance(rngs, ShapesOnly):
        return jnp.zeros(shape)
    count = math.prod(shape)
    size = max(SHORTEST, 2 ** math.ceil(math.log2(max(count, 1))))
    drawn = draw(rngs.params(), (size,))
    if not isinstance(drawn, Tracer):
        drawn = np.asarray(drawn)  # on the host, what follows compiles nothing
    return jnp.asarray(drawn[:count].reshape(shape) * np.float32(scale))
