"""The layers that CLIP adds: quick GELU and causal attention, values and gradients against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.models.attention import attention
from jaxdino.models.layers import quick_gelu

TOLERANCE = {jnp.float32: 2e-6, jnp.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_quick_gelu(dtype):
    x = jnp.linspace(-8, 8, 101).astype(dtype)
    value, slope = quick_gelu(x), jax.grad(lambda x: quick_gelu(x).astype(jnp.float32).sum())(x)
    plain = lambda x: x * jax.nn.sigmoid(1.702 * x)  # noqa: E731
    wide = x.astype(jnp.float32)
    assert value.dtype == slope.dtype == dtype
    np.testing.assert_allclose(value.astype(jnp.float32), plain(wide), atol=TOLERANCE[dtype])
    np.testing.assert_allclose(slope.astype(jnp.float32), jax.vmap(jax.grad(plain))(wide), atol=TOLERANCE[dtype])


def _masked(q, k, v):
    n = q.shape[2]
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / np.sqrt(q.shape[-1])
    scores = jnp.where(np.tril(np.ones((1, 1, n, n), bool)), scores, -1e30)
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores, axis=-1), v)


def test_causal_attention():
    q, k, v, g = jax.random.normal(jax.random.key(0), (4, 2, 3, 7, 8))

    def ours(q, k, v):
        return attention(q, k, v, "xla", causal=True)

    np.testing.assert_allclose(ours(q, k, v), _masked(q, k, v), atol=1e-6)
    for own, plain in zip(jax.vjp(ours, q, k, v)[1](g), jax.vjp(_masked, q, k, v)[1](g), strict=True):
        np.testing.assert_allclose(own, plain, atol=5e-6)
    assert np.abs(np.asarray(ours(q, k, v) - attention(q, k, v, "xla"))).max() > 0.1
