"""Noise: Gaussian, shot (Poisson) and impulse (salt and pepper), on an image (H, W, C) in 0..1."""

import jax
import jax.numpy as jnp
import numpy as np

COUNTS = 128
"""Counts of photons are below this; the chance of more is below 1e-12 for all published numbers."""


def gaussian(key: jax.Array, image: jax.Array, sigma: float) -> jax.Array:
    """Add normal noise to each value."""
    return image + sigma * jax.random.normal(key, image.shape)


def shot(key: jax.Array, image: jax.Array, table: jax.Array, photons: float) -> jax.Array:
    """Replace each value by a count of photons, which has the mean value x `photons`: the inverse of its distribution.

    Args:
      table: see `counts_of`. Values are taken as levels of 255.
    """
    levels = jnp.clip(jnp.round(image * 255), 0, 255).astype(jnp.int32)
    drawn = jax.random.uniform(key, image.shape)
    count = jnp.zeros(image.shape, jnp.int32)
    for step in [COUNTS >> bit for bit in range(1, COUNTS.bit_length())]:
        higher = count + step
        count = jnp.where(drawn > table[levels, higher - 1], higher, count)
    return count / photons


def counts_of(photons: float) -> np.ndarray:
    """Return the Poisson distribution of the count of each level, float32 (256, COUNTS): chances of at most k."""
    from scipy.stats import poisson

    means = np.arange(256).reshape(-1, 1) / 255 * photons
    return poisson.cdf(np.arange(COUNTS), means).astype(np.float32)


def impulse(key: jax.Array, image: jax.Array, share: float) -> jax.Array:
    """Replace a share of the values by 0 or 1, as skimage's random_noise("s&p") does."""
    hit, salt = (jax.random.uniform(one, image.shape) for one in jax.random.split(key))
    return jnp.where(hit <= share, (salt < 0.5).astype(jnp.float32), image)
