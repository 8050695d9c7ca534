"""Automatic augmentation on the device: each image its own operations, on planes (n, C, H, W) in 0..1.

Results are cut to whole levels of 0..255 after each operation, as they are on uint8 images (see `data.policies`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.data import policies
from jaxdino.data.photometric import colours, draws, tones
from jaxdino.data.photometric.draws import per_image
from jaxdino.data.policies import SPACES, STEPS, Policy

CHAINS, DEPTH = 3, 3  # of AugMix
SLACK = 1e-3  # of a level: rounding errors do not lose a whole one


def automatic(keys: jax.Array, planes: jax.Array, auto: str, drawn: jax.Array | None) -> jax.Array:
    """Apply a view's automatic augmentation.

    Args:
      auto: see `policies.parsed`.
      drawn: (n, K, 2), what the host drew (see `policies.applied`); not read by AugMix.
    """
    policy = policies.parsed(auto)
    if policy is None:
        return planes
    if not policy.on_host:
        return augmix(keys, planes, policy)
    if drawn is None:
        raise ValueError(f"{auto} needs the operations that the host drew")
    return chained(planes, drawn[..., 0].astype(jnp.int32), drawn[..., 1])


def chained(planes: jax.Array, numbers: jax.Array, magnitudes: jax.Array) -> jax.Array:
    """Apply to each image operations one after the other: numbers and magnitudes (n, D), see `operated`."""

    def one(changed: jax.Array, each: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return operated(changed, *each), None

    return jax.lax.scan(one, planes, (numbers.T, magnitudes.T))[0]  # compiled once, whatever D


def operated(planes: jax.Array, numbers: jax.Array, magnitudes: jax.Array) -> jax.Array:
    """Apply to each image the operation of its number (n,) in `policies.OPERATIONS`, with its magnitude (n,)."""
    found, magnitude = planes, per_image(magnitudes)
    for name, change in CHANGES.items():
        chosen = per_image(numbers == policies.OPERATIONS.index(name))
        found = jnp.where(chosen, _whole(change(planes, magnitude)), found)
    return found


def _whole(planes: jax.Array) -> jax.Array:
    return jnp.floor(planes * 255 + SLACK) / 255


def _blended(planes: jax.Array, other: jax.Array | float, magnitude: jax.Array) -> jax.Array:
    """Move each value away from `other` by a share of their difference."""
    return jnp.clip(planes * (1 + magnitude) - other * magnitude, 0, 1)


def _color(planes: jax.Array, magnitude: jax.Array) -> jax.Array:
    if planes.shape[1] != colours.RGB:
        return planes
    return _blended(planes, _whole(colours.to_grey(planes)), magnitude)


def _contrast(planes: jax.Array, magnitude: jax.Array) -> jax.Array:
    grey = _whole(colours.to_grey(planes)) if planes.shape[1] == colours.RGB else planes
    return _blended(planes, grey.mean(axis=(2, 3), keepdims=True), magnitude)


def _sharpness(planes: jax.Array, magnitude: jax.Array) -> jax.Array:
    return _blended(planes, jnp.round(colours.smoothed(planes) * 255) / 255, magnitude)


CHANGES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "Brightness": lambda planes, magnitude: _blended(planes, 0.0, magnitude),
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": tones.posterize,
    "Solarize": lambda planes, magnitude: tones.solarize(planes, magnitude / 255),
    "AutoContrast": lambda planes, magnitude: tones.autocontrast(planes),
    "Equalize": lambda planes, magnitude: tones.equalize(planes),
}
"""Operation -> (planes, magnitude (n, 1, 1, 1)) -> planes. "Color" does nothing to images without RGB."""


def augmix(keys: jax.Array, planes: jax.Array, policy: Policy) -> jax.Array:
    """Mix each image with three chains of one to three random operations on it.

    The share of the original is drawn evenly from 0..1; the chains share the rest, all divisions equally likely.
    """
    chosen = draws.integers(keys, "augmix_operation", 0, len(SPACES["augmix"]) - 1, (CHAINS, DEPTH))
    steps = draws.integers(keys, "augmix_step", 0, policy.severity - 1, (CHAINS, DEPTH))
    signs = 2 * draws.integers(keys, "augmix_sign", 0, 1, (CHAINS, DEPTH)) - 1
    lengths = draws.integers(keys, "augmix_length", 1, DEPTH, (CHAINS, 1))
    numbers, signed, magnitudes = (jnp.asarray(table) for table in _tables())
    numbers = jnp.where(jnp.arange(DEPTH).reshape(1, 1, -1) < lengths, numbers[chosen], 0)
    magnitudes = magnitudes[chosen, steps] * jnp.where(signed[chosen], signs, 1)
    parts = -jnp.log1p(-draws.uniform(keys, "augmix_parts", 0, 1, (CHAINS,)))  # of exponentials: a flat Dirichlet
    kept = draws.uniform(keys, "augmix_kept", 0, 1, (1,))
    shares = jnp.concatenate([kept, (1 - kept) * parts / jnp.maximum(parts.sum(axis=1, keepdims=True), 1e-12)], axis=1)
    return mixed(planes, numbers, magnitudes, shares)


def mixed(planes: jax.Array, numbers: jax.Array, magnitudes: jax.Array, shares: jax.Array) -> jax.Array:
    """Mix images with chains of operations on them.

    Args:
      numbers, magnitudes: (n, K, D), of the D operations of K chains. shares: (n, 1 + K), of the image and the chains.
    """
    count, chains, depth = numbers.shape
    copies = jnp.repeat(planes, chains, axis=0)
    changed = chained(copies, numbers.reshape(-1, depth), magnitudes.reshape(-1, depth))
    changed = changed.reshape(count, chains, *planes.shape[1:]) * shares[:, 1:].reshape(count, chains, 1, 1, 1)
    return planes * per_image(shares[:, 0]) + changed.sum(axis=1)


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of AugMix's operations their numbers (K,), whether they are signed (K,), and magnitudes (K, steps)."""
    space, steps = SPACES["augmix"], STEPS["augmix"]
    numbers = np.array([policies.OPERATIONS.index(name) for name in space], np.int32)
    magnitudes = np.array([[scale.at(step, steps) for step in range(steps)] for scale in space.values()], np.float32)
    return numbers, np.array([scale.signed for scale in space.values()]), magnitudes
