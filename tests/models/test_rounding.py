"""Rounding to bfloat16 gives XLA's own numbers, and their gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.models.rounding import rounded

SPECIAL = [0.0, -0.0, np.inf, -np.inf, 1.0, -1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-23, 3.4e38, -3.4e38, 1e-30]


def test_numbers_are_those_of_a_conversion():
    drawn = np.random.default_rng(0).integers(0, 2**32, 1 << 16, dtype=np.uint32).view(np.float32)
    normal = drawn[np.isfinite(drawn) & (np.abs(drawn) > np.finfo(np.float32).tiny)]
    x = jnp.concatenate([jnp.asarray(SPECIAL, jnp.float32), jnp.asarray(normal)])
    found, expected = jax.jit(lambda x: rounded(x, jnp.bfloat16))(x), x.astype(jnp.bfloat16)
    assert found.dtype == jnp.bfloat16 and len(x) > 60_000
    np.testing.assert_array_equal(found.view(jnp.uint16), expected.view(jnp.uint16))


def test_what_is_no_number_stays_none():
    bits = jnp.asarray([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF], jnp.uint32)
    assert jnp.isnan(rounded(bits.view(jnp.float32), jnp.bfloat16)).all()


def test_other_types_are_converted():
    x = jnp.ones(3)
    for dtype in (jnp.float32, jnp.float16):
        assert rounded(x, dtype).dtype == dtype
    assert rounded(x.astype(jnp.float16), jnp.bfloat16).dtype == jnp.bfloat16


def test_its_gradient_is_that_of_a_conversion():
    x = jnp.linspace(-2, 2, 7)
    one, other = (
        jax.grad(lambda x, how=how: (how(x, jnp.bfloat16).astype(jnp.float32) ** 2).sum())(x)
        for how in (rounded, lambda x, dtype: x.astype(dtype))
    )
    np.testing.assert_array_equal(one, other)
