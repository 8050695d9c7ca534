"""Scaled dot-product attention with a hand-written gradient, or cuDNN's flash attention."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.models.half_matmul import HALF


def attention(
    q_BxHxNxd: jax.Array, k_BxHxNxd: jax.Array, v_BxHxNxd: jax.Array, implementation: str, *, causal: bool = False
) -> jax.Array:
    """Compute softmax(q k^T / sqrt(d)) v with softmax in float32; input and output are (B, H, N, d).

    Args:
      implementation: "xla" (plain matmuls) or "cudnn" (flash attention; NVIDIA GPU, half precision).
      causal: each query attends to keys up to its own position.
    """
    if implementation == "cudnn":
        to_bnhd = (jnp.swapaxes(t, 1, 2) for t in (q_BxHxNxd, k_BxHxNxd, v_BxHxNxd))
        out = jax.nn.dot_product_attention(*to_bnhd, is_causal=causal, implementation="cudnn")
        return jnp.swapaxes(out, 1, 2)
    return _attention(q_BxHxNxd, k_BxHxNxd, v_BxHxNxd, causal)


def masked_attention(q_BxHxNxd: jax.Array, k_BxHxMxd: jax.Array, v_BxHxMxd: jax.Array, allowed: jax.Array) -> jax.Array:
    """Compute attention over the keys that each query may attend to, softmax in float32: (B, H, N, d).

    Args:
      allowed: bool (B, 1, N, M), at least one key for each query.
    """
    scores = _products("bhqd,bhkd->bhqk", q_BxHxNxd * (1 / math.sqrt(q_BxHxNxd.shape[-1])), k_BxHxMxd)
    weights = jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf), axis=-1).astype(v_BxHxMxd.dtype)
    return _products("bhqk,bhkd->bhqd", weights, v_BxHxMxd).astype(v_BxHxMxd.dtype)


_products = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(q, k, v, causal):
    return _attention_fwd(q, k, v, causal)[0]


def _attention_fwd(q, k, v, causal):
    scores = _products("bhqd,bhkd->bhqk", q * (1 / math.sqrt(q.shape[-1])), k)
    if causal:
        scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool)[None, None], scores, -jnp.inf)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    inverse = 1 / weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(v.dtype)  # divide by their sum after the value matmul: d columns instead of N
    out = (_products("bhqk,bhkd->bhqd", weights, v) * inverse).astype(v.dtype)
    return out, (q, k, v, out, weights, inverse)


def _attention_bwd(causal, residuals, g):
    """Compute the gradients; matmuls in v's dtype with float32 sums; with p the softmax, ds = p (dp - sum(g out)).

    Source: Dao et al. 2022, FlashAttention (arXiv:2205.14135), appendix B.4, for the sum over out.
    """
    q, k, v, out, weights, inverse = residuals
    g32 = g.astype(jnp.float32)
    dv = _over_queries(weights, (g32 * inverse).astype(v.dtype))
    dp = _products("bhqd,bhkd->bhqk", g.astype(v.dtype), v)
    along = jnp.sum(g32 * out.astype(jnp.float32), axis=-1, keepdims=True)
    ds = weights.astype(jnp.float32) * (dp - along) * (inverse / math.sqrt(q.shape[-1]))
    ds = ds.astype(v.dtype)
    dq, dk = _products("bhqk,bhkd->bhqd", ds, k), _over_queries(ds, q)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


_attention.defvjp(_attention_fwd, _attention_bwd)


def _over_queries(weights_BxHxQxK: jax.Array, values_BxHxQxd: jax.Array) -> jax.Array:
    """Return weights^T values (B, H, K, d), float32: the sum over the queries."""

    def plain(weights, values):
        return _products("bhqk,bhqd->bhkd", weights, values)

    if values_BxHxQxd.dtype not in HALF:
        return plain(weights_BxHxQxK, values_BxHxQxd)
    return lax.platform_dependent(weights_BxHxQxK, values_BxHxQxd, cpu=_narrow_over_queries, default=plain)


def _narrow_over_queries(weights: jax.Array, values: jax.Array) -> jax.Array:
    """Compute (values^T weights)^T: on a CPU, a transposed first operand would make the matmul a float32 one.

    The reshapes keep XLA from folding the transposes back into it. Only arrays of d columns are copied.
    """
    b, h, queries, width = values.shape
    turned = jnp.swapaxes(values, 2, 3).reshape(b * h, width, queries)
    products = _products("ndq,nqk->ndk", turned, weights.reshape(b * h, queries, -1))
    return jnp.swapaxes(products.reshape(b, h, width, -1), 2, 3)
