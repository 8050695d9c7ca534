"""The layers that every backbone shares: linear, layer norm, GELU, attention, drop path.

Parameters keep their own dtype (float32 in training); the compute dtype is that of the activations, and each
layer casts its parameters to it. Statistics of layer norm and softmax are float32 whatever the compute dtype.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

HALF = (jnp.bfloat16, jnp.float16)


@jax.custom_vjp
def half_matmul(x_NxI: jax.Array, w_IxO: jax.Array) -> jax.Array:
    """Half-precision x @ w that sums in float32 forward and backward and returns x's dtype.

    Plain autodiff would hand the backward matmuls a float32 cotangent and lose the half-precision units; the
    custom rule casts the cotangent first.
    """
    return jnp.matmul(x_NxI, w_IxO, preferred_element_type=jnp.float32).astype(x_NxI.dtype)


def _half_matmul_fwd(x, w):
    return half_matmul(x, w), (x, w)


def _half_matmul_bwd(residuals, g):
    x, w = residuals
    g = g.astype(x.dtype)
    dx = lax.dot_general(g, w, (((g.ndim - 1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    rows = tuple(range(x.ndim - 1))
    dw = lax.dot_general(x, g, ((rows, rows), ((), ())), preferred_element_type=jnp.float32)
    return dx.astype(x.dtype), dw.astype(w.dtype)


half_matmul.defvjp(_half_matmul_fwd, _half_matmul_bwd)


class Linear(nnx.Module):
    """y = x @ kernel + bias on the last axis; kernel (in, out), bias (out,)."""

    def __init__(self, n_in: int, n_out: int, *, use_bias: bool = True, std: float = 0.02, rngs: nnx.Rngs):
        init = nnx.initializers.truncated_normal(stddev=std)
        self.kernel = nnx.Param(init(rngs.params(), (n_in, n_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((n_out,))) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        bias = None if self.bias is None else self.bias[...]
        return linear(x, self.kernel[...], bias)


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """x (..., in) times kernel (in, out) plus bias, in x's dtype.

    float32 flattens the leading axes first (on CPU a 2-D matmul is 1.2x a batched one); half precision does not.
    """
    kernel = kernel.astype(x.dtype)
    if x.dtype in HALF:
        y = half_matmul(x, kernel)
    else:
        y = (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])
    return y if bias is None else y + over_last_axis(bias.astype(x.dtype), y)


def over_last_axis(vector: jax.Array, like: jax.Array) -> jax.Array:
    """(D,) as (1, ..., 1, D) with as many axes as `like`, so that no rank is promoted silently."""
    return vector.reshape((1,) * (like.ndim - 1) + (-1,))


class LayerNorm(nnx.Module):
    """Layer norm over the last axis with scale and bias; `eps` as the checkpoint's family has it."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """(x - mean) / sqrt(var + eps) * scale + bias over the last axis, statistics in float32 and two passes."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    inverse = lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)
    scale, bias = (over_last_axis(vector.astype(jnp.float32), x) for vector in (scale, bias))
    return (centred * inverse * scale + bias).astype(x.dtype)


class LayerScale(nnx.Module):
    """Multiplies a residual branch by a learned vector, `gamma` (width,)."""

    def __init__(self, width: int, init: float):
        self.gamma = nnx.Param(jnp.full((width,), init))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * over_last_axis(self.gamma[...].astype(x.dtype), x)


def gelu(x: jax.Array) -> jax.Array:
    """The exact (erf) GELU, as all the families' checkpoints were trained with."""
    return jax.nn.gelu(x, approximate=False)


def drop_path(branch_BxNxD: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Stochastic depth: zeroes the branch of a sample with probability `rate`, scales the others by 1/(1 - rate).

    Does nothing without a key. Source: Huang et al. 2016 (arXiv:1603.09382), per sample as in timm.
    """
    if key is None or rate == 0.0:
        return branch_BxNxD
    keep = jax.random.bernoulli(key, 1.0 - rate, (branch_BxNxD.shape[0], 1, 1))
    return branch_BxNxD * (keep / (1.0 - rate)).astype(branch_BxNxD.dtype)


def attention(q_BxHxNxd: jax.Array, k_BxHxNxd: jax.Array, v_BxHxNxd: jax.Array, implementation: str) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v, softmax in float32; (B, H, N, d) in and out.

    Args:
      implementation: "xla" (plain matmuls) or "cudnn" (flash attention; NVIDIA GPU, half precision).
    """
    d = q_BxHxNxd.shape[-1]
    if implementation == "cudnn":
        to_bnhd = (jnp.swapaxes(t, 1, 2) for t in (q_BxHxNxd, k_BxHxNxd, v_BxHxNxd))
        out = jax.nn.dot_product_attention(*to_bnhd, implementation="cudnn")
        return jnp.swapaxes(out, 1, 2)
    dtype = v_BxHxNxd.dtype
    scores = jnp.einsum(
        "bhqd,bhkd->bhqk", q_BxHxNxd * (1 / math.sqrt(d)), k_BxHxNxd, preferred_element_type=jnp.float32
    )
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(dtype), v_BxHxNxd, preferred_element_type=jnp.float32)
    return (out / total).astype(dtype)  # dividing after the value matmul touches d columns instead of N
