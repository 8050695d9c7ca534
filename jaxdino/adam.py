"""Adam with its two moments stored in half the memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

SEED = 20
"""Of the rounding; the step is folded in, so that a resumed run rounds alike."""


class _Moments(NamedTuple):
    """`optax.ScaleByAdamState`, the moments bfloat16."""

    count: jax.Array
    mu: Any
    nu: Any


def scale_by_adam_bfloat16(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Compute Adam's update in float32, and keep both moments in bfloat16 between steps: 4 bytes for a weight, not 8.

    The second moment moves by 1 - b2, 0.1 % a step, less than bfloat16 resolves (0.4 %): rounded to the nearest value
    it would stay where it is. It is rounded up or down at random, with the right mean. The first one is rounded to the
    nearest.

    Sources: Kingma and Ba 2015 (arXiv:1412.6980); Zamirai et al. 2020, Revisiting BFloat16 Training (arXiv:2010.06192),
    for stochastic rounding of slow averages.
    """
    exact = optax.scale_by_adam(b1, b2, eps)

    def init(params: Any) -> _Moments:
        zeros = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.bfloat16), params)
        return _Moments(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads: Any, state: _Moments, params: Any = None) -> tuple[Any, _Moments]:
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), (state.mu, state.nu))
        updates, new = exact.update(grads, optax.ScaleByAdamState(state.count, *wide), params)
        leaves, structure = jax.tree.flatten(new.nu)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), new.count), len(leaves))
        nu = [rounded(key, leaf) for key, leaf in zip(keys, leaves, strict=True)]
        mu = jax.tree.map(lambda x: x.astype(jnp.bfloat16), new.mu)
        return updates, _Moments(new.count, mu, jax.tree.unflatten(structure, nu))

    return optax.GradientTransformation(init, update)


def rounded(key: jax.Array, x: jax.Array) -> jax.Array:
    """Round finite float32 to one of the two nearest bfloat16, at random, so that the mean is x."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits += jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)  # carries into the kept half, or not
    return jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
