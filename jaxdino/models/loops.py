"""Loops over the parts of arrays that move half precision as whole numbers.

On a CPU, XLA computes in float32 what it has no half-precision instruction for, even where numbers are only moved: a
loop that reads a part of a bfloat16 array and writes a part of another converts the whole of both at each turn.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.models.half_matmul import HALF


def mapped(function: Callable[[Any], Any], xs: Any) -> Any:
    """Return `function` of each part of the arrays xs (parts, ...), joined: `lax.map`."""
    return scanned(lambda carried, x: (carried, function(x)), (), xs)[1]


def scanned(function: Callable[[Any, Any], tuple[Any, Any]], start: Any, xs: Any) -> tuple[Any, Any]:
    """Return what `function` of (carried, part) -> (carried, result) carries in the end, and its results: `lax.scan`.

    Args:
      start: what is carried first; it is not in half precision.
    """
    if not any(x.dtype in HALF for x in jax.tree.leaves(xs)):
        return lax.scan(function, start, xs)
    by_itself, constants = jax.closure_convert(function, start, jax.tree.map(lambda x: x[0], xs))
    return _scanned(by_itself, start, xs, constants)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _scanned(function, start, xs, constants):
    found: list[Any] = []

    def on_bits(carried, bits):
        carried, result = function(carried, _half(bits, xs), *constants)
        found[:] = [result]
        return carried, _bits(result)

    carried, results = lax.scan(on_bits, start, _bits(xs))
    return carried, _half(results, found[0])


@_scanned.defjvp
def _tangents(function, primals, tangents):
    """Move numbers as they are, since whole numbers have no tangents."""
    plain = lambda start, xs, constants: lax.scan(lambda *pair: function(*pair, *constants), start, xs)  # noqa: E731
    return jax.jvp(plain, primals, tangents)


def _bits(tree: Any) -> Any:
    return jax.tree.map(lambda x: lax.bitcast_convert_type(x, jnp.uint16) if x.dtype in HALF else x, tree)


def _half(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, one: lax.bitcast_convert_type(x, one.dtype) if one.dtype in HALF else x, tree, like)
