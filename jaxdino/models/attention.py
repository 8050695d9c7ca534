"""Scaled dot-product attention with a hand-written gradient, or cuDNN's flash attention.

On a CPU, scores that leave the processor's caches cost more time than the products that make them. Attention of many
tokens is therefore computed head by head and, if a head is large, for some queries at a time; its gradient computes the
scores again, so that they are never stored.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.core import sharding
from jaxdino.models import remat
from jaxdino.models.half_matmul import HALF
from jaxdino.models.matmul import stored

SCORES = 1 << 20
"""Scores that are computed at a time, at most: 4 MB in float32. Fewer of all heads together stay in the caches."""
LEARNED, INFERRED = 1 << 15, 1 << 17
"""Scores of a head, at least, for which going head by head pays: with gradients, and without."""
QUERIES = 64
"""Queries that are computed at a time, at least."""


def attention(
    q_BxHxNxd: jax.Array,
    k_BxHxMxd: jax.Array,
    v_BxHxMxd: jax.Array,
    implementation: str,
    *,
    causal: bool = False,
    allowed: jax.Array | None = None,
) -> jax.Array:
    """Compute softmax(q k^T / sqrt(d)) v with softmax in float32; the result is (B, H, N, d).

    Args:
      implementation: "xla" (plain matmuls) or "cudnn" (flash attention; NVIDIA GPU, half precision).
      causal: each query attends to keys up to its own position.
      allowed: bool (B, 1, N, M), the keys that each query may attend to, at least one; by plain matmuls.
    """
    if implementation == "cudnn" and allowed is None:
        to_bnhd = (jnp.swapaxes(t, 1, 2) for t in (q_BxHxNxd, k_BxHxMxd, v_BxHxMxd))
        out = jax.nn.dot_product_attention(*to_bnhd, is_causal=causal, implementation="cudnn")
        return jnp.swapaxes(out, 1, 2)
    # of blocks that are computed again, XLA would keep q, k and v of a loop over heads in all blocks
    learned = _is_large(q_BxHxNxd, k_BxHxMxd, LEARNED) and jax.default_backend() == "cpu" and not remat.within()
    return _attention(q_BxHxNxd, k_BxHxMxd, v_BxHxMxd, allowed, causal, learned)


_products = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attention(q, k, v, allowed, causal, learned):
    """Compute attention; `learned`: its gradient, if it is asked for, goes by head."""
    whole = functools.partial(_whole, causal=causal)
    if not _is_large(q, k, INFERRED):
        return whole(q, k, v, allowed)[0]
    by_head = functools.partial(_by_head, causal=causal)
    return lax.platform_dependent(
        q, k, v, allowed, cpu=lambda *args: by_head(*args)[0], default=lambda *args: whole(*args)[0]
    )


def _attention_fwd(q, k, v, allowed, causal, learned):
    out, *kept = (_by_head if learned else _whole)(q, k, v, allowed, causal)
    return out, (q, k, v, allowed, out, *kept)


def _attention_bwd(causal, learned, residuals, g):
    """Compute the gradients; matmuls in v's dtype with float32 sums; with p the softmax, ds = p (dp - sum(g out)).

    Source: Dao et al. 2022, FlashAttention (arXiv:2205.14135), appendix B.4, for the sum over out.
    """
    q, k, v, *rest = residuals
    dq, dk, dv = (_by_head_bwd if learned else _whole_bwd)(q, k, v, *rest, g, causal)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attention.defvjp(_attention_fwd, _attention_bwd)


def _scores(q, k, allowed, rows):
    """Return the scores (..., N, M), float32; `rows`: the places of the queries (N,) for causal attention, or None."""
    scores = _products("...qd,...kd->...qk", q * (1 / math.sqrt(q.shape[-1])), k)
    if rows is not None:
        scores = jnp.where(rows[:, None] >= jnp.arange(k.shape[-2])[None], scores, -jnp.inf)
    return scores if allowed is None else jnp.where(allowed, scores, -jnp.inf)


def _softmax_values(scores, v):
    """Return softmax(scores) v, exp(scores - their maximum) in v's dtype, and that maximum and sum (..., N, 1)."""
    most = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - most)
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(v.dtype)  # divide by their sum after the value matmul: d columns instead of N
    return (_products("...qk,...kd->...qd", weights, v) * (1 / total)).astype(v.dtype), weights, most, total


def _whole(q, k, v, allowed, causal):
    """Return the result, the weights and 1 / their sum: all scores at once."""
    rows = jnp.arange(q.shape[2]) if causal else None
    out, weights, _, total = _softmax_values(_scores(q, k, allowed, rows), v)
    return out, weights, 1 / total


def _whole_bwd(q, k, v, allowed, out, weights, inverse, g, causal):
    g32 = g.astype(jnp.float32)
    along = _along(g32, out)
    dv = _over_rows(weights, (g32 * inverse).astype(v.dtype))
    dp = _products("bhqd,bhkd->bhqk", g.astype(v.dtype), v)
    ds = weights.astype(jnp.float32) * (dp - along) * (inverse / math.sqrt(q.shape[-1]))
    ds = ds.astype(v.dtype)
    return _products("bhqk,bhkd->bhqd", ds, k), _over_rows(ds, q), dv


def _along(g32: jax.Array, out: jax.Array) -> jax.Array:
    """Return sum(g out) over the columns (B, H, N, 1), float32."""
    return jnp.sum(g32 * out.astype(jnp.float32), axis=-1, keepdims=True)


def _is_large(q: jax.Array, k: jax.Array, least: int) -> bool:
    """Return whether a head has at least this many scores, and all of them too many, on a single device."""
    known = all(isinstance(size, int) for size in (*q.shape, *k.shape))  # an exported program has any batch size
    if not known or sharding.devices() > 1:
        return False
    scores = q.shape[2] * k.shape[2]
    return scores >= least and math.prod(q.shape[:2]) * scores >= SCORES


def _by_head(q, k, v, allowed, causal):
    """Return the result and the logarithm of the sum of exponentials (B, H, N, 1): some queries of a head at a time."""

    def head(q, k, v, allowed):
        def some(part):
            out, _, most, total = _softmax_values(_scores(part["q"], k, part.get("allowed"), part.get("rows")), v)
            return out, most + jnp.log(total)

        return _joined(lax.map(some, _parts(k, causal, q=q, allowed=allowed)))

    return _each_head(head, q, k, v, allowed)


def _by_head_bwd(q, k, v, allowed, out, logs, g, causal):
    """Compute the gradients with keys as rows, for which dk and dv are products without a transposed factor."""

    def head(q, k, v, allowed, g, along, logs):
        def some(sums, part):
            q, g, scale = part["q"], part["g"], 1 / math.sqrt(k.shape[-1])
            scores = _products("kd,qd->kq", k, q * scale)
            if causal:
                scores = jnp.where(part["rows"][None] >= jnp.arange(len(k))[:, None], scores, -jnp.inf)
            if allowed is not None:
                scores = jnp.where(part["allowed"].T, scores, -jnp.inf)
            p = jnp.exp(scores - part["logs"].T)
            ds = (p * (_products("kd,qd->kq", v, g) - part["along"].T) * scale).astype(v.dtype)
            dk, dv = _products("kq,qd->kd", ds, q), _products("kq,qd->kd", p.astype(v.dtype), g)
            return (sums[0] + dk, sums[1] + dv), _over_rows(ds, k)

        zeros = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
        parts = _parts(k, causal, q=q, allowed=allowed, g=g, along=along, logs=logs)
        (dk, dv), dq = lax.scan(some, zeros, parts)
        return _joined(dq), dk, dv

    return _each_head(head, q, k, v, allowed, g.astype(v.dtype), _along(g.astype(jnp.float32), out), logs)


def _each_head(function: Callable, q, k, v, allowed, *more) -> Any:
    """Return `function` of each head's arrays, (B, H, ...): one after the other."""
    images, heads = q.shape[:2]

    def head(given):
        place, (q, k, v, *more) = given
        return function(q, k, v, None if allowed is None else allowed[place // heads, 0], *more)

    each = [x.reshape(-1, *x.shape[2:]) for x in (q, k, v, *more)]
    found = lax.map(head, (jnp.arange(images * heads), each))
    return jax.tree.map(lambda x: x.reshape(images, heads, *x.shape[1:]), found)


def _parts(k: jax.Array, causal: bool, **arrays: jax.Array | None) -> dict[str, jax.Array]:
    """Split arrays (N, ...) into parts (parts, N / parts, ...) of at most `SCORES` scores; with `rows` if causal."""
    given = {name: one for name, one in arrays.items() if one is not None}
    queries = len(given["q"])
    if causal:
        given["rows"] = jnp.arange(queries)
    counts = [n for n in range(1, queries + 1) if queries % n == 0 and (n == 1 or queries // n >= QUERIES)]
    count = next((n for n in counts if queries // n * len(k) <= SCORES), counts[-1])
    return {name: one.reshape(count, -1, *one.shape[1:]) for name, one in given.items()}


def _joined(parts: Any) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)


def _over_rows(weights: jax.Array, values: jax.Array) -> jax.Array:
    """Return weights^T values (..., M, d), float32, of (..., N, M) and (..., N, d)."""

    def plain(weights, values):
        return _products("...nm,...nd->...md", weights, values)

    if values.dtype not in HALF:
        return plain(weights, values)
    return lax.platform_dependent(weights, values, cpu=_narrow_over_rows, default=plain)


def _narrow_over_rows(weights: jax.Array, values: jax.Array) -> jax.Array:
    """Compute (values^T weights)^T: on a CPU, a transposed first operand would make the matmul a float32 one.

    Only arrays of d columns are copied.
    """
    products = _products("...dn,...nm->...dm", stored(jnp.swapaxes(values, -2, -1)), weights)
    return jnp.swapaxes(stored(products), -2, -1)
