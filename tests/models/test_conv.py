"""The gradient of a kernel as products of the pixels under its rows: exact on whole numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.models import conv as convolutions
from jaxdino.models.conv import conv
from jaxdino.models.xla_conv import xla_conv


def whole(key: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.randint(jax.random.key(key), shape, -3, 4).astype(jnp.float32)


def gradients(function, x, kernel, step):
    y, pull = jax.vjp(lambda x, kernel: function(x, kernel, step), x, kernel)
    return y, *pull(whole(2, y.shape).astype(y.dtype))


@pytest.mark.parametrize("pixels", [convolutions.PIXELS, 1])
@pytest.mark.parametrize(
    ("side", "step", "sides", "channels"),
    [(7, 2, (16, 13), (3, 8)), (3, 2, (9, 12), (36, 32)), (3, 1, (6, 7), (20, 4)), (5, 3, (11, 7), (4, 5))],
)
def test_values_and_gradients_are_exact_on_whole_numbers(monkeypatch, side, step, sides, channels, pixels):
    monkeypatch.setattr(convolutions, "PIXELS", pixels)
    x, kernel = whole(0, (4, *sides, channels[0])), whole(1, (side, side, *channels))
    for ours, theirs in zip(gradients(conv, x, kernel, step), gradients(xla_conv, x, kernel, step), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices run XLA's gradient")
@pytest.mark.parametrize(("function", "convolved"), [(conv, False), (xla_conv, True)])
def test_the_gradient_of_a_kernel_is_ours(function, convolved):
    x, kernel = whole(0, (2, 16, 16, 3)), whole(1, (7, 7, 3, 8))
    g = whole(2, (2, 8, 8, 8))
    learned = jax.jit(jax.grad(lambda kernel, x, g: jnp.sum(function(x, kernel, 2) * g)))
    assert (" convolution(" in learned.lower(kernel, x, g).compile().as_text()) == convolved


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_sums_in_float32(dtype):
    x, kernel = whole(0, (4, 32, 32, 3)).astype(dtype), whole(1, (3, 3, 3, 8))
    wanted = gradients(xla_conv, x.astype(jnp.float32), kernel, 2)[2]
    found = gradients(conv, x, kernel, 2)[2]
    assert found.dtype == kernel.dtype
    np.testing.assert_array_equal(found, wanted)


def test_second_derivatives():
    x, kernel = whole(0, (2, 8, 8, 3)), whole(1, (3, 3, 3, 4))

    def second(function):
        return jax.grad(lambda k: jnp.sum(jnp.square(jax.grad(lambda k: jnp.sum(function(x, k, 2) ** 2))(k))))(kernel)

    np.testing.assert_allclose(second(conv), second(xla_conv), rtol=1e-5)
