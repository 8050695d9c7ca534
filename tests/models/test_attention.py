"""Attention that is computed head by head: values, gradients and memory, against the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.models import attention as module
from jaxdino.models.attention import attention
from jaxdino.models.remat import repeated

IMAGES, HEADS, QUERIES, KEYS, WIDTH = 2, 3, 12, 10, 8
GRID = (2, 5)  # of the keys
TOLERANCE = {"float32": 2e-6, "bfloat16": 1.5e-2}  # of the largest element


@pytest.fixture
def by_head(monkeypatch):
    """Attention by head from the first score on, four queries at a time."""
    for name, value in {"SCORES": 1, "LEARNED": 1, "INFERRED": 1, "PART": 4 * KEYS, "QUERIES": 1}.items():
        monkeypatch.setattr(module, name, value)


@pytest.fixture(params=["by_head", "whole"])
def form(request):
    """Attention by head, or all scores at once as for so few."""
    return request.param == "whole" or request.getfixturevalue("by_head")


def plain(q, k, v, allowed, rows=0.0, columns=0.0):
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, precision="highest") / np.sqrt(q.shape[-1]) + bias(rows, columns)
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(jnp.where(allowed, scores, -1e30)), v, precision="highest")


def bias(rows, columns):
    """Return the sum of the terms for each key, written out: rows (B, H, N, h) and columns (B, H, N, w)."""
    if not isinstance(rows, jax.Array):
        return jnp.zeros((1, 1, 1, 1))
    keys = [rows[..., i] + columns[..., j] for i in range(rows.shape[-1]) for j in range(columns.shape[-1])]
    return jnp.stack(keys, axis=-1)


def masks(kind):
    """Return ({argument of `attention`}, the keys that count)."""
    if kind == "causal":
        return {"causal": True}, np.tri(QUERIES, KEYS, dtype=bool)[None, None]
    if kind == "allowed":
        allowed = np.random.default_rng(1).random((IMAGES, 1, QUERIES, KEYS)) < 0.6
        allowed[..., 0] = True
        return {"allowed": jnp.asarray(allowed)}, allowed
    return {}, np.ones((1, 1, QUERIES, KEYS), bool)


def differ(ours, expected):
    ours, expected = (np.asarray(x, np.float64) for x in (ours, expected))
    return np.abs(ours - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["all", "causal", "allowed", "relative"])
def test_value_and_gradients(form, kind, dtype):
    how, counted = masks(kind)
    columns = [(QUERIES, WIDTH), (KEYS, WIDTH), (KEYS, 5)]
    columns += [(QUERIES, GRID[0]), (QUERIES, GRID[1])] if kind == "relative" else []
    *given, g = (
        jax.random.normal(jax.random.key(i), (IMAGES, HEADS, *shape)).astype(dtype)
        for i, shape in enumerate([*columns, (QUERIES, 5)])
    )
    value = jax.jit(lambda q, k, v, *terms: attention(q, k, v, "xla", **how, relative=terms or None))
    found, pull = jax.vjp(value, *given)
    expected, pull_plain = jax.vjp(
        lambda q, k, v, *terms: plain(q, k, v, counted, *terms), *(x.astype(jnp.float32) for x in given)
    )
    pulled = zip(pull(g), pull_plain(g.astype(jnp.float32)), strict=True)
    for ours, theirs in ((value(*given), expected), (found, expected), *pulled):
        assert ours.shape == theirs.shape and ours.dtype == dtype
        assert differ(ours, theirs) < TOLERANCE[dtype]


def test_a_prime_number_of_queries_stays_in_one_part(by_head, monkeypatch):
    monkeypatch.setattr(module, "QUERIES", 4)
    q = jax.random.normal(jax.random.key(0), (1, 1, 7, WIDTH))
    np.testing.assert_allclose(attention(q, q, q, "xla"), plain(q, q, q, True), atol=1e-6)


@pytest.mark.parametrize("large", [False, True])
def test_scores_are_not_kept(monkeypatch, large):
    """Memory of a gradient: the scores of some queries of a head instead of those of all."""
    monkeypatch.setattr(module, "LEARNED", 1 if large else 1 << 60)
    shape = jax.ShapeDtypeStruct((4, 4, 256, 16), jnp.float32)
    step = jax.grad(lambda q, k, v: jnp.square(attention(q, k, v, "xla")).sum(), (0, 1, 2))
    memory = jax.jit(step).lower(shape, shape, shape).compile().memory_analysis()
    assert (memory.temp_size_in_bytes < 4 * 256 * 256 * 4 * 4) == large


@pytest.mark.parametrize("remat", [False, "blocks", "dots"])
def test_blocks_that_are_computed_again_keep_it_whole(by_head, remat):
    """Memory of `model.remat`: of a loop over heads, XLA would keep q, k and v in every block."""
    block = repeated(lambda x: attention(x, x, x, "xla"), remat)
    text = str(jax.make_jaxpr(jax.grad(lambda x: block(x).sum()))(jnp.ones((1, 2, QUERIES, WIDTH))))
    assert ("scan[" in text) == (not remat)
