"""Convolutions in half precision as matrix products: exactly the sums of a float32 convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.models import half_conv
from jaxdino.models.few_images import in_parts
from jaxdino.models.xla_conv import xla_conv

IN, OUT = 20, 24  # sums of 9 x 24 values of -1, 0 and 1 are whole numbers that bfloat16 holds exactly


def whole(key: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.randint(jax.random.key(key), shape, -1, 2).astype(jnp.bfloat16)


@pytest.mark.parametrize("pixels", [half_conv.PIXELS, 1])
@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(("side", "sides"), [(3, (8, 8)), (3, (7, 10)), (1, (6, 6)), (5, (9, 5))])
def test_values_and_gradients(monkeypatch, side, sides, step, pixels):
    monkeypatch.setattr(half_conv, "PIXELS", pixels)
    x, kernel = whole(0, (3, *sides, IN)), whole(1, (side, side, IN, OUT)).astype(jnp.float32)
    if side == 5:  # fewer terms
        x, kernel = x[..., :8], kernel[:, :, :8, :8]
    y, pull = jax.vjp(lambda x, kernel: half_conv.half_conv(x, kernel, step), x, kernel)
    g = whole(2, y.shape)
    wanted, pull_wanted = jax.vjp(lambda x, kernel: xla_conv(x, kernel, step), x.astype(jnp.float32), kernel)
    dx, dk = pull(g)
    assert (y.dtype, dx.dtype, dk.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    for ours, theirs in zip((y, dx, dk), (wanted, *pull_wanted(g.astype(jnp.float32))), strict=True):
        np.testing.assert_array_equal(ours.astype(jnp.float32), theirs)


@pytest.mark.parametrize("step", [1, 2])
def test_second_derivatives(step):
    """Of the squared gradients: both gradients depend on the input and on the kernel."""

    def squares(conv, x, kernel):
        def loss(x, kernel):
            return jnp.sum(conv(x, kernel, step).astype(jnp.float32) ** 3)

        return sum(jnp.sum(one.astype(jnp.float32) ** 2) for one in jax.grad(loss, (0, 1))(x, kernel))

    x, kernel = whole(0, (2, 3, 4, IN)), whole(1, (3, 3, IN, OUT)).astype(jnp.float32) / 8
    second = jax.grad(squares, (1, 2))
    for ours, theirs in zip(second(half_conv.half_conv, x, kernel), second(xla_conv, x, kernel), strict=True):
        theirs = theirs.astype(jnp.float32)
        assert jnp.abs(ours.astype(jnp.float32) - theirs).max() < 0.02 * jnp.abs(theirs).max()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices run XLA's convolution")
def test_nothing_is_convolved_in_float32():
    x, kernel = whole(0, (2, 8, 8, IN)), jnp.ones((3, 3, IN, OUT))
    loss = jax.value_and_grad(lambda x, kernel: half_conv.half_conv(x, kernel, 1).astype(jnp.float32).sum(), (0, 1))
    assert " convolution(" not in jax.jit(loss).lower(x, kernel).compile().as_text()


@pytest.mark.parametrize(("pixels", "each"), [(64 * 6, 6), (64 * 5, 3), (64 * 2, 2), (1, 1)])
def test_a_part_is_the_largest_divisor_that_fits(pixels, each):
    shapes = []

    def layer(x):
        shapes.append(x.shape)
        return x[..., :2] * 2

    x = whole(0, (6, 8, 8, 3))
    np.testing.assert_array_equal(in_parts(layer, x, pixels), x[..., :2] * 2)
    assert {*shapes} == {(each, 8, 8, 3)}


def test_a_program_is_exported_for_any_batch_size():
    (batch,), kernel = jax.export.symbolic_shape("batch"), whole(1, (3, 3, IN, OUT))
    program = jax.jit(lambda x: half_conv.half_conv(x, kernel, 1))
    exported = jax.export.export(program, platforms=["cpu"])(jax.ShapeDtypeStruct((batch, 8, 8, IN), jnp.bfloat16))
    x = whole(0, (3, 8, 8, IN))
    np.testing.assert_array_equal(exported.call(x), program(x))
