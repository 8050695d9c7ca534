"""Max pools: values and gradients of torch's, also where values are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxdino.models import max_pool


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("sides", [(8, 8), (7, 10), (1, 3)])
def test_values_and_gradients(sides, dtype):
    """Whole numbers up to 2 repeat often: each window's gradient goes to its first maximum."""
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (2, *sides, 5)).astype(np.float32)
    given = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    wanted = torch.nn.functional.max_pool2d(given, 3, 2, 1)
    g = rng.integers(-4, 5, wanted.shape).astype(np.float32)
    wanted.backward(torch.from_numpy(g))
    found, pull = jax.vjp(max_pool.max_pool, jnp.asarray(x, dtype))
    (dx,) = pull(jnp.asarray(g.transpose(0, 2, 3, 1), dtype))
    assert found.dtype == dx.dtype == dtype
    for ours, theirs in ((found, wanted), (dx, given.grad)):
        np.testing.assert_array_equal(ours.astype(jnp.float32), theirs.detach().permute(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_at_its_limits(dtype):
    """Zeros of both signs, the smallest numbers, infinities; a window with NaN, of either sign, is NaN."""
    info = jnp.finfo(dtype)
    edge = jnp.array([0, -0.0, info.tiny, -info.tiny, info.max, info.min, jnp.inf, -jnp.inf, jnp.nan, -jnp.nan], dtype)
    x = jnp.asarray(np.random.default_rng(0).permutation(np.repeat(edge, 8)).reshape(1, 8, 10, 1))
    wanted = max_pool._windows(x.astype(jnp.float32)).astype(dtype)
    np.testing.assert_array_equal(max_pool._slices(x).astype(jnp.float32), wanted.astype(jnp.float32))
    least = jnp.full((1, 3, 3, 1), -jnp.inf, dtype)
    np.testing.assert_array_equal(max_pool._slices(least).astype(jnp.float32), -np.inf)


def test_both_forms_are_equal():
    x = jax.random.randint(jax.random.key(0), (2, 9, 6, 3), -2, 3).astype(jnp.float32)
    np.testing.assert_array_equal(max_pool._slices(x), max_pool._windows(x))
    g = max_pool._windows(x)
    np.testing.assert_array_equal(max_pool._slices_gradient(x, g), max_pool._windows_gradient(x, g))


@pytest.mark.parametrize("sides", [(4, 6), (3, 5)])
def test_halves(sides):
    """Whole numbers up to 1 repeat often."""
    given = torch.randint(-1, 2, (2, 3, *sides)).float().requires_grad_()
    wanted = torch.nn.functional.max_pool2d(given, 2, ceil_mode=True)
    g = torch.randint(-4, 5, wanted.shape).float()
    wanted.backward(g)
    found, pull = jax.vjp(max_pool.halved, jnp.asarray(given.detach().permute(0, 2, 3, 1).numpy()))
    np.testing.assert_array_equal(found, wanted.detach().permute(0, 2, 3, 1))
    np.testing.assert_array_equal(pull(jnp.asarray(g.permute(0, 2, 3, 1).numpy()))[0], given.grad.permute(0, 2, 3, 1))
