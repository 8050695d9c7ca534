"""The matching of objects with queries that every head of queries uses: the Hungarian algorithm, inside of the step."""

import jax
import jax.numpy as jnp
import optax

FREE = 1e4  # cost of what is matched last


def matched(cost_MxQ: jax.Array, valid_M: jax.Array) -> jax.Array:
    """Return the query (M,) of each object, Q at least M; Q + m for the empty slot m.

    Each empty slot has a column of its own, which it takes at once: otherwise it would be searched for among ties.
    """
    slots = len(cost_MxQ)
    cost = jnp.nan_to_num(cost_MxQ, nan=FREE, posinf=FREE, neginf=FREE)
    used = valid_M[:, None] > 0
    own = jnp.where(jnp.eye(slots, dtype=bool) & ~used, 0.0, FREE)
    cost = jnp.concatenate([jnp.where(used, cost, FREE), own], axis=1)
    rows, columns = optax.assignment.hungarian_algorithm(cost)
    return jnp.zeros(slots, jnp.int32).at[rows].set(columns.astype(jnp.int32))
