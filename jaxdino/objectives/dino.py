"""The DINO loss on whole images: the teacher's targets over K prototypes, and the cross entropy to them.

Sources: Caron et al. 2021, DINO (arXiv:2104.14294), equations 1-4 and algorithm 1; Sinkhorn-Knopp as in Caron et al.
2020, SwAV (arXiv:2006.09882), section 3.1. All sums are over the given rows: under `jax.jit`, with rows sharded over
devices, over the global batch.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp

from jaxdino.core.errors import UserError
from jaxdino.objectives.classify import weighted_mean

EXACT = lax.Precision.HIGHEST  # accelerators would multiply float32 with fewer bits


def centred_softmax(scores: jax.Array, centre: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Compute softmax((scores - centre) / temperature): (n, K), (K,) -> (n, K) float32."""
    return jax.nn.softmax((scores.astype(jnp.float32) - centre[None]) / temperature, axis=-1)


def sinkhorn_knopp(
    scores: jax.Array, weight: jax.Array, temperature: jax.Array | float, iterations: int = 3
) -> jax.Array:
    """Assign rows evenly to the prototypes: (n, K) scores -> (n, K) float32, whose rows sum to 1.

    exp(scores / temperature) is scaled to equal column sums (one per prototype), then to equal row sums, `iterations`
    times. The first iteration is computed in logarithms, so that scores of any size are safe. After it the largest
    entry of a column is at least 1 / (n K) and values that underflowed are negligible, so that the other iterations are
    plain divisions.

    Args:
      weight: (n,) how often a row counts; a row of weight 0 is ignored, and its result is 0.

    Raises:
      UserError: for fewer than one iteration.
    """
    if iterations < 1:
        raise UserError(f"sinkhorn_iterations={iterations}: must be at least 1; the published value is 3")
    weight = weight.astype(jnp.float32)
    logits = counted(scores, weight) / temperature
    logits -= logsumexp(logits, axis=0, b=weight[:, None], keepdims=True)
    shares = jax.nn.softmax(logits, axis=1)
    rows = jnp.ones_like(weight)  # factors of the rows of `shares`; `columns` holds those of the columns
    for _ in range(iterations - 1):
        columns = 1 / jnp.matmul(weight * rows, shares, precision=EXACT)
        rows = 1 / jnp.matmul(shares, columns, precision=EXACT)
    if iterations > 1:
        shares = shares * rows[:, None] * columns[None]
    return jnp.where(weight[:, None] > 0, shares, 0.0)


def moved_centre(centre: jax.Array, scores: jax.Array, weight: jax.Array, momentum: float = 0.9) -> jax.Array:
    """Move the centre (K,) towards the mean of the teacher's scores (n, K); unchanged if all weights (n,) are 0."""
    weight = weight.astype(jnp.float32)
    total = jnp.sum(weight)
    mean = jnp.sum(counted(scores, weight) * weight[:, None], axis=0) / jnp.maximum(total, 1e-12)
    return jnp.where(total > 0, momentum * centre + (1 - momentum) * mean, centre)


def dino_loss(
    student: jax.Array, teacher: jax.Array, weight: jax.Array, temperature: jax.Array | float = 0.1
) -> jax.Array:
    """Compute -sum_k q_k log softmax(s / temperature)_k, averaged over pairs of a teacher's and a different view.

    Args:
      student: (B, V, K) scores; views 0..G-1 are the teacher's.
      teacher: (B, G, K) probabilities q; no gradient flows to them.
      weight: (B,), weights of the images in the mean.

    Returns:
      A scalar in float32; 0 if all weights are 0.

    Raises:
      UserError: if there is no pair of different views.
    """
    views, given = student.shape[1], teacher.shape[1]
    pairs = given * views - min(given, views)
    if pairs < 1:
        raise UserError(f"{views} student view and {given} teacher view do not form a pair: give two global views")
    targets = teacher.astype(jnp.float32)
    every = jnp.sum(targets, axis=1, keepdims=True)  # the sum of cross entropies is the cross entropy to the sum
    first = cross_entropy(student[:, :given], every - targets[:, :views], temperature)
    losses = jnp.sum(first, axis=1) + jnp.sum(cross_entropy(student[:, given:], every, temperature), axis=1)
    return weighted_mean(losses / pairs, weight.astype(jnp.float32))


@jax.custom_vjp
def cross_entropy(student: jax.Array, teacher: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """Compute -sum_k q_k log softmax(s / temperature)_k: scores and targets (..., K) -> (...) float32.

    Leading axes of size 1 of the targets are broadcast. Only the scores have a gradient. Only the scores are kept for
    it, without another array of their size, which is faster and needs less memory than autodiff.
    """
    return _cross_entropy_fwd(student, teacher, temperature)[0]


def _cross_entropy_fwd(student, teacher, temperature):
    most = jnp.max(student, axis=-1, keepdims=True).astype(jnp.float32)
    logits = (student.astype(jnp.float32) - most) / temperature
    total = jnp.log(jnp.sum(jnp.exp(logits), axis=-1))
    losses = total * jnp.sum(teacher, axis=-1) - jnp.sum(teacher * logits, axis=-1)
    return losses, (student, teacher, temperature, most, total)


def _cross_entropy_bwd(residuals, g):
    student, teacher, temperature, most, total = residuals
    probabilities = jnp.exp((student.astype(jnp.float32) - most) / temperature - total[..., None])
    mass = jnp.sum(teacher, axis=-1, keepdims=True)
    grad = (probabilities * mass - teacher) * (g[..., None] / temperature)
    return grad.astype(student.dtype), None, None


cross_entropy.defvjp(_cross_entropy_fwd, _cross_entropy_bwd)


def counted(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Return `values` (n, ...) in float32, with zeros in rows whose weight (n,) is 0, even if they hold NaN."""
    counts = weight.reshape(weight.shape + (1,) * (values.ndim - weight.ndim)) > 0
    return jnp.where(counts, values.astype(jnp.float32), 0.0)
