"""What XLA makes of the hand-written gradients: guards of their speed that do not depend on the machine."""

import jax
import jax.numpy as jnp
import pytest

from jaxdino.models.attention import attention
from jaxdino.models.half_matmul import half_matmul
from jaxdino.models.layers import gelu

ROWS, NARROW, WIDE = (2, 37), 16, 64


def half(*shape: int) -> jax.Array:
    return jnp.ones(shape, jnp.bfloat16)


def gradient(function, count: int):
    """Sum the function's output, and differentiate by its first `count` arguments."""
    return jax.value_and_grad(lambda *args: function(*args).astype(jnp.float32).sum(), tuple(range(count)))


def test_gelu_keeps_no_erf_for_its_gradient():
    """The backward pass computes erf again; merged with the forward pass, it would be kept in float32."""

    def between(x):
        return gelu(half_matmul(x, jnp.ones((NARROW, WIDE))))

    text = jax.jit(gradient(between, 1)).lower(half(*ROWS, NARROW)).compile().as_text()
    assert text.count(" erf(") == 2


@pytest.mark.parametrize(("n_in", "n_out"), [(NARROW, WIDE), (WIDE, NARROW)])
def test_weight_gradients_copy_the_narrower_array(n_in, n_out):
    args = half(*ROWS, n_in), jnp.ones((n_in, n_out))
    text = jax.jit(gradient(half_matmul, 2)).lower(*args).compile().as_text()
    assert f"[{WIDE},{ROWS[0] * ROWS[1]}]" not in text
    assert f"[{WIDE},{ROWS[0]},{ROWS[1]}]" not in text


def test_attention_never_sums_over_the_first_axis_of_its_weights():
    """As a sum over axis 2 of both arrays, XLA would compute it in float32 on a CPU."""
    q = half(2, 3, 37, 8)
    lowered = jax.jit(gradient(lambda q, k, v: attention(q, k, v, "xla"), 3)).lower(q, q, q)
    assert "contracting_dims = [3] x [3]" in lowered.as_text()
    assert "contracting_dims = [2] x [2]" not in lowered.as_text()
