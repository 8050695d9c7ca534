"""The gradients that are written out by hand, against autodiff of the plainest statement of each function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.models.attention import attention
from jaxdino.models.layers import add_bias, gelu, layer_norm, layer_scale, linear, split_heads
from jaxdino.models.rope import rotate

EPS = 1e-5


def plain_layer_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + EPS) * scale + bias


def plain_attention(q, k, v):
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, precision="highest") / jnp.sqrt(q.shape[-1])
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), v, precision="highest")


def plain_heads(qkv):
    b, n, width = qkv.shape
    return jnp.concatenate([jnp.swapaxes(x.reshape(b, n, 3, width // 9), 1, 2) for x in jnp.split(qkv, 3, -1)])


def plain_linear(x, w, bias):
    return jnp.matmul(x, w, precision="highest") + bias


def tables(rotation):
    """`rotation`, given the sines and cosines of half a head."""
    return lambda x, sin, cos: rotation(x, jnp.concatenate([-sin, sin], -1), jnp.concatenate([cos, cos], -1))


def plain_rotation(x, sin, cos):
    first, second = jnp.split(x, 2, axis=-1)
    return x * cos + jnp.concatenate([second, first], axis=-1) * sin


HEADS = (2, 3, 9, 8)
FUNCTIONS = {  # ours, plain, shapes of the arguments
    "layer_norm": (
        lambda x, scale, bias: layer_norm(x, scale, bias, EPS),
        plain_layer_norm,
        ((2, 5, 32), (32,), (32,)),
    ),
    "gelu": (gelu, lambda x: x * jax.scipy.stats.norm.cdf(x), ((2, 5, 32),)),
    "split_heads": (lambda qkv: jnp.concatenate(split_heads(qkv, 3)), plain_heads, ((2, 9, 72),)),
    "layer_scale": (layer_scale, lambda x, gamma: x * gamma, ((2, 5, 32), (32,))),
    "rotate": (tables(rotate), tables(plain_rotation), (HEADS, (9, 4), (9, 4))),
    "narrow linear": (linear, plain_linear, ((2, 5, 16), (16, 32), (32,))),
    "add_bias": (add_bias, lambda y, bias: y + bias, ((2, 5, 32), (32,))),
    "linear": (linear, plain_linear, ((2, 5, 32), (32, 16), (16,))),
    "attention": (lambda q, k, v: attention(q, k, v, "xla"), plain_attention, (HEADS, HEADS, HEADS)),
}
TOLERANCE = {"float32": 2e-6, "bfloat16": 1.5e-2}  # of the largest element


def draw(shapes, dtype):
    """Arguments of size about 1, rounded to dtype; activations in it, vectors and matrices in float32."""
    keys = jax.random.split(jax.random.key(0), len(shapes))
    rounded = [jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes, strict=True)]
    return [x if x.ndim > 2 else x.astype(jnp.float32) for x in rounded]


def differ(ours, plain) -> float:
    """The largest difference, relative to the largest element."""
    ours, plain = (np.asarray(x, np.float64) for x in (ours, plain))
    return np.abs(ours - plain).max() / np.abs(plain).max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_gradients_are_those_of_autodiff(name, dtype):
    ours, plain, shapes = FUNCTIONS[name]
    args = draw(shapes, dtype)
    with jax.numpy_rank_promotion("allow"):
        expected, pull_plain = jax.vjp(plain, *(x.astype(jnp.float32) for x in args))
        g = jax.random.normal(jax.random.key(1), expected.shape).astype(dtype)
        expected_gradients = pull_plain(g.astype(jnp.float32))
    out, pull = jax.vjp(ours, *args)
    gradients = pull(g)
    assert out.dtype == dtype and [x.dtype for x in gradients] == [x.dtype for x in args]
    assert differ(out, expected) < TOLERANCE[dtype]
    for index, (got, wanted) in enumerate(zip(gradients, expected_gradients, strict=True)):
        assert got.shape == wanted.shape
        assert differ(got, wanted) < TOLERANCE[dtype], f"argument {index}"


def test_a_bias_sees_every_row_in_half_precision():
    """Summed in bfloat16, ones stop counting at 256."""
    y, bias = jnp.zeros((4, 1000, 3), jnp.bfloat16), jnp.zeros(3)
    gradient = jax.grad(lambda bias: add_bias(y, bias).astype(jnp.float32).sum())(bias)
    assert (gradient == 4000).all()


def test_extreme_inputs_keep_finite_gradients():
    x = jnp.array([-1e4, -40.0, 0.0, 40.0, 1e4])
    assert np.allclose(jax.grad(lambda x: gelu(x).sum())(x), [0, 0, 0.5, 1, 1], atol=1e-6)
    flat = jnp.full((1, 4, 8), 3.0)
    norm_gradient = jax.grad(lambda x: layer_norm(x, jnp.ones(8), jnp.zeros(8), EPS).sum())(flat)
    q = jnp.full((1, 1, 4, 8), 200.0)
    attention_gradient = jax.grad(lambda q: attention(q, q, q, "xla").sum())(q)
    assert np.isfinite(norm_gradient).all() and np.isfinite(attention_gradient).all()
