"""The KoLeo loss, which spreads features evenly over the sphere.

Source: Sablayrolles et al. 2019, Spreading vectors for similarity search (arXiv:1806.03198), equation 2: the
Kozachenko-Leonenko estimate of their entropy, from the distance of each one to its nearest neighbour.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.objectives.classify import weighted_mean
from jaxdino.objectives.dino import EXACT, counted

SAME = 1e-6  # distance below which rows of length 1 are indistinguishable in float32


def koleo_loss(features: jax.Array, weight: jax.Array, eps: float = 1e-8) -> jax.Array:
    """Compute the mean of -log(distance to the nearest other row + eps), for L2-normalised rows.

    DINOv2 sums it over the global views, with each view's rows separate, since two views of an image should be close.

    Args:
      features: (n, D); neighbours are searched among all rows, that is in the global batch.
      weight: (n,); a row of weight 0 does not count and is not a neighbour.

    Returns:
      A scalar in float32; 0 if fewer than two rows count. The choice of the nearest row has no gradient. Rows closer
      than 1e-6 count as 1e-6 apart and do not repel each other, since their direction is only rounding.
    """
    weight = weight.astype(jnp.float32)
    rows = unit(counted(features, weight))
    near = lax.stop_gradient(rows)
    cosines = jnp.matmul(near, near.T, precision=EXACT)
    allowed = (weight[None] > 0) & ~jnp.eye(len(rows), dtype=bool)
    nearest = jnp.argmax(jnp.where(allowed, cosines, -jnp.inf), axis=1)
    losses = -jnp.log(length(rows - rows[nearest], SAME)[:, 0] + eps)
    return weighted_mean(losses, weight * jnp.any(allowed, axis=1))


def unit(vectors: jax.Array, eps: float = 1e-12) -> jax.Array:
    """Normalise vectors (..., D) to unit length, in float32; those shorter than `eps` are divided by `eps`."""
    vectors = vectors.astype(jnp.float32)
    return vectors / length(vectors, eps)


def length(vectors: jax.Array, least: float) -> jax.Array:
    """Compute L2 norms (..., D) -> (..., 1), at least `least`; below it the gradient is 0."""
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True), least**2))
