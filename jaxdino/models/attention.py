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
from jaxdino.models.loops import mapped, scanned
from jaxdino.models.matmul import stored

SCORES = 1 << 20
"""Scores of all heads, at least, for which going head by head pays: 4 MB in float32. Fewer stay in the caches."""
LEARNED, INFERRED = 1 << 15, 1 << 17
"""Scores of a head, at least, for which it pays: with gradients, and without."""
PART = 1 << 19
"""Scores that are computed at a time, at most."""
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
    relative: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Compute softmax(q k^T / sqrt(d) + terms) v with softmax in float32; the result is (B, H, N, d).

    Args:
      implementation: "xla" (plain matmuls) or "cudnn" (flash attention; NVIDIA GPU, half precision).
      causal: each query attends to keys up to its own position.
      allowed: bool (B, 1, N, M), the keys that each query may attend to, at least one; by plain matmuls.
      relative: terms (B, H, N, h) and (B, H, N, w) for the row and the column of each key, if the keys are the places
        of a grid, M = h w, row by row; by plain matmuls.
    """
    if implementation == "cudnn" and allowed is None and relative is None:
        to_bnhd = (jnp.swapaxes(t, 1, 2) for t in (q_BxHxNxd, k_BxHxMxd, v_BxHxMxd))
        out = jax.nn.dot_product_attention(*to_bnhd, is_causal=causal, implementation="cudnn")
        return jnp.swapaxes(out, 1, 2)
    terms = {} if allowed is None else {"allowed": allowed}
    if causal:
        terms["last"] = jnp.arange(q_BxHxNxd.shape[2])[None, None, :, None]
    if relative is not None:
        terms["row"], terms["column"] = relative
    # of blocks that are computed again, XLA would keep q, k and v of a loop over heads in all blocks
    learned = _is_large(q_BxHxNxd, k_BxHxMxd, LEARNED) and jax.default_backend() == "cpu" and not remat.within()
    return _attention(q_BxHxNxd, k_BxHxMxd, v_BxHxMxd, terms, learned)


_products = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q, k, v, terms, learned):
    """Compute attention.

    Args:
      terms: what changes the scores of a query, (B or 1, H or 1, N, any); see `_with_terms`.
      learned: the gradient, if it is asked for, goes by head.
    """
    if not _is_large(q, k, INFERRED):
        return _whole(q, k, v, terms)[0]
    return lax.platform_dependent(
        q, k, v, terms, cpu=lambda *args: _by_head(*args)[0], default=lambda *args: _whole(*args)[0]
    )


def _attention_fwd(q, k, v, terms, learned):
    out, *kept = (_by_head if learned else _whole)(q, k, v, terms)
    return out, (q, k, v, terms, out, *kept)


def _attention_bwd(learned, residuals, g):
    """Compute the gradients; matmuls in v's dtype with float32 sums; with p the softmax, ds = p (dp - sum(g out)).

    Source: Dao et al. 2022, FlashAttention (arXiv:2205.14135), appendix B.4, for the sum over out.
    """
    q, k, v, terms, *kept = residuals
    dq, dk, dv, dterms = (_by_head_bwd if learned else _whole_bwd)(q, k, v, terms, g, *kept)
    dterms = {name: dterms[name].astype(x.dtype) if name in dterms else None for name, x in terms.items()}
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), dterms


_attention.defvjp(_attention_fwd, _attention_bwd)


def _with_terms(scores: jax.Array, terms: dict[str, jax.Array], keys: int = -1) -> jax.Array:
    """Return the scores (..., N, M), float32, changed by the terms of each query; for keys=-2, scores are (M, N).

    Terms: `row` (..., N, h) and `column` (..., N, w), added to the keys of each row and column of a grid; `last`
    (..., N, 1), the last key that counts; `allowed` (..., N, M), the keys that count.
    """
    turned = {name: x if keys == -1 else jnp.swapaxes(x, -1, -2) for name, x in terms.items()}
    if "row" in terms:
        rows, columns = jnp.expand_dims(turned["row"], keys), jnp.expand_dims(turned["column"], keys - 1)
        scores = (_on_grid(scores, terms, keys) + rows + columns).reshape(scores.shape)
    if "last" in terms:
        places = jnp.arange(scores.shape[keys])
        places = places.reshape([-1 if i == scores.ndim + keys else 1 for i in range(scores.ndim)])
        scores = jnp.where(turned["last"] >= places, scores, -jnp.inf)
    return jnp.where(turned["allowed"], scores, -jnp.inf) if "allowed" in terms else scores


def _terms_gradients(ds: jax.Array, terms: dict[str, jax.Array], width: int, keys: int = -1) -> dict[str, jax.Array]:
    """Return the gradients of `row` and `column`; `ds`: those of the scores, divided by sqrt(width)."""
    if "row" not in terms:
        return {}
    grid = _on_grid(ds, terms, keys)
    sums = (grid.sum(axis, dtype=jnp.float32) * math.sqrt(width) for axis in (keys, keys - 1))
    return {name: x if keys == -1 else x.T for name, x in zip(("row", "column"), sums, strict=True)}


def _on_grid(scores: jax.Array, terms: dict[str, jax.Array], keys: int) -> jax.Array:
    """Split the axis of the keys into rows and columns."""
    shape, at = list(scores.shape), scores.ndim + keys
    shape[at : at + 1] = terms["row"].shape[-1], terms["column"].shape[-1]
    return scores.reshape(shape)


def _softmax_values(scores, v):
    """Return softmax(scores) v, exp(scores - their maximum) in v's dtype, and that maximum and sum (..., N, 1)."""
    most = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - most)
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(v.dtype)  # divide by their sum after the value matmul: d columns instead of N
    return (_products("...qk,...kd->...qd", weights, v) * (1 / total)).astype(v.dtype), weights, most, total


def _scores(q, k, terms):
    return _with_terms(_products("...qd,...kd->...qk", q * (1 / math.sqrt(q.shape[-1])), k), terms)


def _whole(q, k, v, terms):
    """Return the result, the weights and 1 / their sum: all scores at once."""
    out, weights, _, total = _softmax_values(_scores(q, k, terms), v)
    return out, weights, 1 / total


def _whole_bwd(q, k, v, terms, g, out, weights, inverse):
    g32 = g.astype(jnp.float32)
    along = _along(g32, out)
    dv = _over_rows(weights, (g32 * inverse).astype(v.dtype))
    dp = _products("bhqd,bhkd->bhqk", g.astype(v.dtype), v)
    ds = weights.astype(jnp.float32) * (dp - along) * (inverse / math.sqrt(q.shape[-1]))
    ds = ds.astype(v.dtype)
    return _products("bhqk,bhkd->bhqd", ds, k), _over_rows(ds, q), dv, _terms_gradients(ds, terms, q.shape[-1])


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


def _by_head(q, k, v, terms):
    """Return the result and the logarithm of the sum of exponentials (B, H, N, 1): some queries of a head at a time."""

    def head(k, v, queries):
        def some(part):
            out, _, most, total = _softmax_values(_scores(part["q"], k, part["terms"]), v)
            return out, most + jnp.log(total)

        return _joined(mapped(some, _parts(queries, len(k))))

    return _each_head(head, k, v, {"q": q, "terms": terms})


def _by_head_bwd(q, k, v, terms, g, out, logs):
    """Compute the gradients with keys as rows, for which dk and dv are products without a transposed factor."""

    def head(k, v, queries):
        def some(sums, part):
            q, g, width = part["q"], part["g"], k.shape[-1]
            scale = 1 / math.sqrt(width)
            scores = _with_terms(_products("kd,qd->kq", k, q * scale), part["terms"], keys=-2)
            p = jnp.exp(scores - part["logs"].T)
            ds = (p * (_products("kd,qd->kq", v, g) - part["along"].T) * scale).astype(v.dtype)
            dk, dv = _products("kq,qd->kd", ds, q), _products("kq,qd->kd", p.astype(v.dtype), g)
            return (sums[0] + dk, sums[1] + dv), (_over_rows(ds, k), _terms_gradients(ds, part["terms"], width, -2))

        zeros = jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
        (dk, dv), found = scanned(some, zeros, _parts(queries, len(k)))
        dq, dterms = _joined(found)
        return dq, dk, dv, dterms

    along = _along(g.astype(jnp.float32), out)
    queries = {"q": q, "terms": terms, "g": g.astype(v.dtype), "along": along, "logs": logs}
    return _each_head(head, k, v, queries)


def _each_head(function: Callable, k: jax.Array, v: jax.Array, queries: dict[str, Any]) -> Any:
    """Return `function` of each head's k, v and queries, one after the other; queries: (B or 1, H or 1, N, any)."""
    images, heads = k.shape[:2]
    own, structure = jax.tree.flatten((k, v, queries))
    flat = [x.reshape(-1, *x.shape[2:]) for x in own]  # before the loop: it may be a copy
    each = {i: x for i, x in enumerate(flat) if len(x) == images * heads}

    def shared(i: int, place: jax.Array) -> jax.Array:
        """Return what several heads or images have in common."""
        lead = own[i].shape[:2]
        return flat[i][place // heads % lead[0] * lead[1] + place % heads % lead[1]]

    def head(pair):
        place, mine = pair
        return function(
            *jax.tree.unflatten(structure, [mine[i] if i in mine else shared(i, place) for i in range(len(own))])
        )

    found = mapped(head, (jnp.arange(images * heads), each))
    return jax.tree.map(lambda x: x.reshape(images, heads, *x.shape[1:]), found)


def _parts(queries: dict[str, Any], keys: int) -> dict[str, Any]:
    """Split arrays (N, ...) into parts (parts, N / parts, ...) of at most `PART` scores."""
    n = len(queries["q"])
    counts = [count for count in range(1, n + 1) if n % count == 0 and (count == 1 or n // count >= QUERIES)]
    count = next((count for count in counts if n // count * keys <= PART), counts[-1])
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), queries)


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
