"""The shared layers against independent statements of what they do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from scipy.special import erf

from jaxdino.models.attention import attention
from jaxdino.models.half_matmul import half_matmul
from jaxdino.models.layers import Linear, drop_path, gelu, gelu_after, layer_norm, linear


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    rate, samples = 0.3, 4000
    out = np.asarray(drop_path(jnp.ones((samples, 2, 3)), rate, jax.random.key(0)))
    per_sample = out.reshape(samples, -1)
    assert (per_sample == per_sample[:, :1]).all()
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / (1 - rate))}
    assert abs((out[:, 0, 0] == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / samples)


def test_drop_path_depends_on_the_key_alone():
    x = jnp.ones((64, 1, 1))
    first = drop_path(x, 0.5, jax.random.key(1))
    assert (first == jax.jit(drop_path, static_argnums=1)(x, 0.5, jax.random.key(1))).all()
    assert (first != drop_path(x, 0.5, jax.random.key(2))).any()
    assert drop_path(x, 0.5, None) is x and drop_path(x, 0.0, jax.random.key(1)) is x


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
def test_half_matmul_has_the_gradient_of_a_matmul(shape):
    """In float32 the custom rule and autodiff must agree; half precision then only rounds."""
    x, w, g = normal(*shape), normal(5, 4, seed=1), normal(*shape[:-1], 4, seed=2)

    def gradient(matmul):
        return jax.jit(jax.grad(lambda x, w: jnp.sum(matmul(x, w) * g), (0, 1)))(x, w)

    for a, b in zip(gradient(half_matmul), gradient(jnp.matmul), strict=True):
        assert a.shape == b.shape and np.abs(a - b).max() < 1e-5


def test_half_matmul_stays_half_and_sums_in_float32():
    x, w = normal(8, 4096).astype(jnp.bfloat16), normal(4096, 3, seed=1).astype(jnp.bfloat16)
    out, gradients = jax.value_and_grad(lambda x, w: half_matmul(x, w).astype(jnp.float32).sum(), (0, 1))(x, w)
    assert half_matmul(x, w).dtype == jnp.bfloat16 and [g.dtype for g in gradients] == [jnp.bfloat16] * 2
    exact = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    assert np.abs(np.asarray(half_matmul(x, w), np.float64) - exact).max() < 2**-8 * np.abs(exact).max()
    assert np.isfinite(out)


def test_linear_in_float32_is_the_plain_product():
    x, kernel, bias = normal(2, 3, 5), normal(5, 4, seed=1), normal(4, seed=2)
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
    assert np.abs(linear(x, kernel, bias) - expected).max() < 1e-5


def test_layer_norm_far_from_zero():
    """The fast variance E[x^2] - E[x]^2 would lose every digit here; torch's two passes do not."""
    x = normal(4, 64) + 3000.0
    scale, bias = normal(64, seed=1), normal(64, seed=2)
    ours = layer_norm(x, scale, bias, 1e-6)
    reference = torch.nn.functional.layer_norm(torch.tensor(np.asarray(x)), (64,))
    reference = reference.numpy() * np.asarray(scale) + np.asarray(bias)
    assert np.abs(ours - reference).max() < 2e-3


def test_layer_norm_takes_its_statistics_in_float32():
    x = (normal(4, 64) + 100.0).astype(jnp.bfloat16)
    ours = layer_norm(x, jnp.ones(64), jnp.zeros(64), 1e-6)
    assert ours.dtype == jnp.bfloat16
    assert np.abs(ours - layer_norm(x.astype(jnp.float32), jnp.ones(64), jnp.zeros(64), 1e-6)).max() < 2e-2


def test_gelu_is_the_exact_one():
    x = np.linspace(-6, 6, 101)
    assert np.abs(gelu(jnp.asarray(x, jnp.float32)) - 0.5 * x * (1 + erf(x / np.sqrt(2)))).max() < 1e-6


def test_gelu_after_a_layer_rounds_once():
    layer = Linear(8, 16, std=0.5, rngs=nnx.Rngs(0))
    layer.bias[...] = normal(16)
    x = normal(200, 8)
    np.testing.assert_array_equal(gelu_after(layer, x), gelu(layer(x)))
    half = x.astype(jnp.bfloat16)
    layer.kernel[...] = layer.kernel[...].astype(jnp.bfloat16).astype(jnp.float32)
    expected = gelu(layer(half.astype(jnp.float32))).astype(jnp.bfloat16)
    found = [np.asarray(one, np.float32) for one in (gelu_after(layer, half), gelu(layer(half)), expected)]
    once, twice = (np.mean(one != found[2]) for one in found[:2])  # of what the order of the sums changes
    assert once < 0.01 and twice > 0.1


def test_attention_is_a_softmax_of_scaled_products():
    q, k, v = (normal(2, 3, 7, 8, seed=seed) * 3 for seed in range(3))
    scores = np.einsum("bhqd,bhkd->bhqk", *(np.asarray(a, np.float64) for a in (q, k))) / np.sqrt(8)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = np.einsum("bhqk,bhkd->bhqd", weights / weights.sum(axis=-1, keepdims=True), np.asarray(v, np.float64))
    assert np.abs(attention(q, k, v, "xla") - expected).max() < 1e-5


def test_attention_survives_large_scores():
    q = jnp.full((1, 1, 4, 8), 200.0)
    assert np.isfinite(attention(q, q, q, "xla")).all()
