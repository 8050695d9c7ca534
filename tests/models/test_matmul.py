"""Products of rows with a matrix: the gradient of the matrix, in each of its forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.models import matmul as module
from jaxdino.models.layers import linear
from jaxdino.models.matmul import matmul
from jaxdino.models.remat import repeated


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("rows", "n_in", "n_out"), [(7, 6, 10), (7, 10, 6), (module.FEW * 6, 10, 6)])
def test_gradients(monkeypatch, rows, n_in, n_out, large):
    monkeypatch.setattr(module, "LARGE", 1 if large else 1 << 60)
    shapes = (rows, n_in), (n_in, n_out), (rows, n_out)
    x, w, g = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))
    value, pull = jax.vjp(lambda x, w: matmul(x, w), x, w)
    dx, dw = jax.jit(pull)(g)
    exact = [np.asarray(one, np.float64) for one in (x, w, g)]
    np.testing.assert_allclose(value, exact[0] @ exact[1], atol=1e-5)
    np.testing.assert_allclose(dx, exact[2] @ exact[1].T, atol=1e-5)
    np.testing.assert_allclose(dw, exact[0].T @ exact[2], atol=1e-5)


@pytest.fixture
def in_parts(monkeypatch):
    """Products of two to four rows at a time; a loop over the parts is seen in the program."""
    for name, value in {"SIDE": 1, "ROWS": 4}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0}, raising=False)
    return lambda function, *args: "scan[" in str(jax.make_jaxpr(function)(*args))


def test_many_rows_are_computed_in_parts(in_parts):
    x, w, g = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((18, 6), (6, 10), (18, 10))))
    assert in_parts(matmul, x, w) and not in_parts(matmul, x[:12], w)
    value, pull = jax.vjp(matmul, x, w)
    exact = [np.asarray(one, np.float64) for one in (x, w, g)]
    for ours, expected in zip(
        (value, *pull(g)), (exact[0] @ exact[1], exact[2] @ exact[1].T, exact[0].T @ exact[2]), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_prime_number_of_rows_stays_in_one_part(in_parts):
    assert in_parts(matmul, jnp.ones((18, 6)), jnp.ones((6, 10)))
    assert not in_parts(matmul, jnp.ones((17, 6)), jnp.ones((6, 10)))


@pytest.mark.parametrize("remat", [False, "dots"])
def test_blocks_that_are_computed_again_keep_their_rows_whole(in_parts, remat):
    """Products in a loop would be hidden from the policy of `remat=dots`."""
    assert in_parts(repeated(matmul, remat), jnp.ones((16, 6)), jnp.ones((6, 10))) == (not remat)


def test_the_gradient_has_the_dtype_of_the_matrix():
    x, w = jnp.ones((3, 4), jnp.float32), jnp.ones((4, 5), jnp.bfloat16)
    value, pull = jax.vjp(matmul, x, w)
    assert value.dtype == jnp.float32 and pull(value)[1].dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_remat_of_dots_keeps_products_with_weights(dtype):
    """A product inside of a rule for gradients must stay visible to the policy."""
    x, w = jnp.ones((3, 4), dtype), jnp.ones((4, 4))

    def products(remat):
        step = jax.grad(lambda x, w: repeated(lambda x: jnp.sin(linear(x, w, None)), remat)(x).sum(), (0, 1))
        return str(jax.make_jaxpr(step)(x, w)).count("dot_general")

    assert products("dots") == products(False) < products("blocks")
