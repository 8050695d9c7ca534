"""Divide a batch into slices that are computed one after another, to use less memory."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def sliced(batch: Mapping[str, jax.Array], slices: int) -> dict[str, jax.Array]:
    """Reshape arrays (B, ...) to (slices, B / slices, ...); slice s takes every `slices`-th example from the s-th.

    With this order, no example leaves its device.
    """
    return {name: jnp.swapaxes(x.reshape(-1, slices, *x.shape[1:]), 0, 1) for name, x in batch.items()}


def over_slices(look: Callable[[Any, Any], tuple[Any, Any]], carried: Any, parts: Any) -> tuple[Any, Any]:
    """Run `jax.lax.scan` of (carried, slice) -> (carried, seen) over the slices; a single slice needs no loop."""
    if jax.tree.leaves(parts)[0].shape[0] == 1:
        carried, seen = look(carried, jax.tree.map(lambda x: x[0], parts))
        return carried, jax.tree.map(lambda x: x[None], seen)
    return jax.lax.scan(look, carried, parts)
