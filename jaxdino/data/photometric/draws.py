"""Random numbers of the photometric steps: each image has its own, by (seed, step, sample).

The training step makes one key from seed and step; each image folds its place in the global batch into it, and each
operation its name. What an image gets does therefore not depend on the other images, on the devices, on the hosts or on
the operations that are on.
"""

import zlib

import jax
import jax.numpy as jnp


def of_samples(key: jax.Array, places: jax.Array) -> jax.Array:
    """Return the keys (n,) of images at these places (n,) of the global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)


def of_step(keys: jax.Array, name: str) -> jax.Array:
    """Return the keys (n,) of the step of that name."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, zlib.crc32(name.encode()))


def uniform(keys: jax.Array, name: str, low: float, high: float, shape: tuple[int, ...] = ()) -> jax.Array:
    """Draw float32 (n, *shape) from low to high."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, minval=low, maxval=high))(of_step(keys, name))


def integers(keys: jax.Array, name: str, low: int, high: int, shape: tuple[int, ...] = ()) -> jax.Array:
    """Draw int32 (n, *shape) from low to high, both included."""
    return jax.vmap(lambda key: jax.random.randint(key, shape, low, high + 1))(of_step(keys, name))


def normal(keys: jax.Array, name: str, shape: tuple[int, ...]) -> jax.Array:
    """Draw float32 (n, *shape) from the standard normal distribution."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(of_step(keys, name))


def per_image(values: jax.Array) -> jax.Array:
    """Return (n, 1, 1, 1) of (n,), to be broadcast over images."""
    return values.reshape(-1, 1, 1, 1)


def sometimes(keys: jax.Array, name: str, probability: float, changed: jax.Array, images: jax.Array) -> jax.Array:
    """Return `changed` for the images that a coin of this probability chooses, and `images` for the others."""
    if probability >= 1:
        return changed
    coins = jax.vmap(lambda key: jax.random.bernoulli(key, probability))(of_step(keys, f"{name}_prob"))
    return jnp.where(per_image(coins), changed, images)
