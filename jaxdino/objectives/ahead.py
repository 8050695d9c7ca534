"""Losses over all examples of a batch that is processed in slices.

The gradient of a loss like this needs the features of all slices. A first pass computes them, the loss gives its
gradient with respect to each, and the chain rule then continues slice by slice. Source: Gao et al. 2021, GradCache
(arXiv:2101.06983).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdino.core.slices import over_slices


def look_ahead(look: Callable[[Any], Any], loss: Callable[[Any], jax.Array], parts: Any) -> dict[str, Any]:
    """Compute what each slice needs from the whole batch: {"value": (S,), "gradient": as the features, (S, b, ...)}.

    Args:
      look: slice -> features, a tree of (b, ...) in float32.
      loss: features of the whole batch, a tree of (S b, ...) -> a scalar, a mean over the batch.
      parts: the slices, each array (S, b, ...); "weight" (S, b) are the weights of the batch's mean.
    """
    _, seen = over_slices(lambda _, part: (None, look(part)), None, parts)
    value, gradient = jax.value_and_grad(loss)(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen))
    total = jnp.sum(parts["weight"])
    scaled = jax.tree.map(lambda g, x: g.reshape(x.shape) * total, gradient, seen)
    return {"value": jnp.full(parts["weight"].shape[:1], value), "gradient": scaled}


def here(features: Any, ahead: dict[str, Any], weight: jax.Array) -> jax.Array:
    """Return the loss of the whole batch, with its gradient by this slice's features.

    Args:
      features: as returned by `look`, a tree of (b, ...). ahead: this slice of `look_ahead`'s result. weight: (b,).
    """
    products = jax.tree.map(lambda x, g: jnp.sum(x * g), features, ahead["gradient"])
    along = sum(jax.tree.leaves(products)) / jnp.maximum(jnp.sum(weight), 1e-12)
    return ahead["value"] + along - jax.lax.stop_gradient(along)
