"""Initialise random parameters: numbers of `jax.random`, drawn with few compilations.

JAX compiles each draw again for each shape, which takes longer than drawing; a network has dozens of shapes. A number's
value depends only on the key and its position (jax_threefry_partitionable), so the first n numbers of a longer draw
equal a draw of n: lengths are rounded up, to one of two short lengths or to a power of two.
"""

import contextlib
import contextvars
import math
import typing
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

SHORTEST, SHORT = 2**10, 2**14
Place = Callable[[np.ndarray], jax.Array]
_place: contextvars.ContextVar[Place] = contextvars.ContextVar("place", default=jnp.asarray)


@contextlib.contextmanager
def placed(place: Place) -> Iterator[None]:
    """Have `place` put each parameter on the devices as soon as it is drawn: none holds the whole model."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


class ShapesOnly:
    """Replacement for `nnx.Rngs` when only the shapes of a network are needed: all draws are zeros."""

    def params(self) -> None:
        """Return no key."""


SHAPES_ONLY = typing.cast(nnx.Rngs, ShapesOnly())
"""Pass it as the `nnx.Rngs` of a network."""


def normal(rngs: nnx.Rngs | ShapesOnly, shape: tuple[int, ...], std: float = 1.0) -> jax.Array:
    """Draw normal numbers of mean 0, float32."""
    return _draw(jax.random.normal, rngs, shape, std)


def truncated_normal(rngs: nnx.Rngs | ShapesOnly, shape: tuple[int, ...], std: float = 0.02) -> jax.Array:
    """Draw normal numbers of mean 0 and `std`, truncated at two `std`, float32; their deviation is 0.88 `std`."""
    return _draw(lambda key, size: jax.random.truncated_normal(key, -2.0, 2.0, size), rngs, shape, std)


def uniform(rngs: nnx.Rngs | ShapesOnly, shape: tuple[int, ...], bound: float) -> jax.Array:
    """Draw uniform numbers between -bound and bound, float32."""
    return _draw(lambda key, size: jax.random.uniform(key, size, jnp.float32, -bound, bound), rngs, shape)


def _draw(draw: Callable, rngs: nnx.Rngs | ShapesOnly, shape: tuple[int, ...], scale: float = 1.0) -> jax.Array:
    if isinstance(rngs, ShapesOnly):
        return jnp.zeros(shape)
    count = math.prod(shape)
    size = SHORTEST if count <= SHORTEST else max(SHORT, 2 ** math.ceil(math.log2(count)))
    drawn = draw(rngs.params(), (size,))
    if isinstance(drawn, Tracer):
        return jnp.asarray(drawn[:count].reshape(shape) * np.float32(scale))
    host = np.asarray(drawn)  # on the host: the next steps compile nothing
    return _place.get()(host[:count].reshape(shape) * np.float32(scale))
