"""Loops that move half precision as whole numbers: values, gradients of both orders, and no conversion of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdino.models.loops import mapped, scanned

DTYPES = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
WEIGHTS = jnp.linspace(-1, 1, 8)


def parts(dtype):
    return jax.random.normal(jax.random.key(0), (4, 5, 8), dtype)


def layer(x, weights=WEIGHTS):
    return jnp.tanh(x * weights.astype(x.dtype)[None])


@DTYPES
def test_values_are_those_of_lax(dtype):
    xs = {"half": parts(dtype), "whole": jnp.arange(4)}

    def add(total, x):
        return total + x["half"].astype(jnp.float32), (layer(x["half"]), x["whole"] + 1)

    found, expected = (loop(add, jnp.zeros((5, 8)), xs) for loop in (scanned, lax.scan))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert mapped(layer, xs["half"]).dtype == dtype


@DTYPES
def test_gradients_of_parts_and_of_what_the_loop_closes_over(dtype):
    """Of first and of second order: whole numbers have none."""

    def loss(loop, xs, weights):
        return jnp.square(loop(lambda x: layer(x, weights), xs).astype(jnp.float32)).sum()

    def slope(loop, xs, weights):
        return sum(jnp.square(g.astype(jnp.float32)).sum() for g in jax.grad(loss, (1, 2))(loop, xs, weights))

    for function in (loss, slope):
        found, expected = (jax.grad(function, (1, 2))(loop, parts(dtype), WEIGHTS) for loop in (mapped, lax.map))
        for one, other in zip(found, expected, strict=True):
            assert np.abs(other.astype(jnp.float32)).max() > 0.1
            np.testing.assert_array_equal(one, other)


def test_a_turn_converts_its_own_part_alone():
    xs = parts(jnp.bfloat16)
    texts = [jax.jit(lambda xs, loop=loop: loop(layer, xs)).lower(xs).compile().as_text() for loop in (mapped, lax.map)]
    assert ["f32[4,5,8]" in text for text in texts] == [False, True]
