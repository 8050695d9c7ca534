"""KoLeo: features are to be spread evenly over the sphere.

Source: Sablayrolles et al. 2019, Spreading vectors for similarity search (arXiv:1806.03198), equation 2: the
Kozachenko-Leonenko estimate of their entropy, from each one's distance to its nearest neighbour.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.objectives.classify import weighted_mean
from jaxdino.objectives.dino import EXACT, counted

SAME = 1e-6  # the distance of rows of length 1 that float32 need not tell apart


def koleo_loss(features: jax.Array, weight: jax.Array, eps: float = 1e-8) -> jax.Array:
    """The mean of -log(distance to the nearest other row + eps), of L2-normalised rows.

    DINOv2 adds it up over the global views, each view's rows by themselves: two views of an image are meant to be near.

    Args:
      features: (n, D); neighbours are sought among all rows, so among the global batch.
      weight: (n,); a row of weight 0 neither counts nor is a neighbour.

    Returns:
      A scalar in float32; 0 where fewer than two rows count. Which row is nearest is chosen without a gradient. Rows
      nearer than 1e-6 count as 1e-6 apart and do not push each other: the direction would be rounding.
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
    """Vectors (..., D) over their lengths, in float32; those shorter than `eps` over `eps`."""
    vectors = vectors.astype(jnp.float32)
    return vectors / length(vectors, eps)


def length(vectors: jax.Array, least: float) -> jax.Array:
    """(..., D) -> (..., 1): L2 norms, at least `least`; below it the gradient is 0."""
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(vectors), axis=-1, keepdims=True), least**2))
