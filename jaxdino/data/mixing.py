"""Augment a labelled batch on the device: the photometric part of its view, then mixup or CutMix of the whole batch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdino.data.photometric import augment_view
from jaxdino.data.photometric.erasing import box_of
from jaxdino.data.recipe import View

MIX = 6  # what the key of the mixing is folded in with


def augment(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    view: View,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    places: jax.Array | None = None,
    operations: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Augment one batch of training images and return it with its soft targets.

    The photometric steps are drawn per image; mixup or CutMix is drawn once per batch, as timm does by default, and
    pairs each image with the one at the mirrored position of the batch. Rows of weight 0 are not mixed.

    Args:
      key: a jax random key; the same key gives the same batch.
      images: uint8 (B, H, W, C).
      targets: float (B, classes): one-hot or soft labels.
      weights: float (B,), 0 for padding and unreadable images.
      view: static under jit.
      mean, std: C numbers each, for images in 0..1.
      places, operations: as for `photometric.augment_view`.

    Returns:
      float32 (B, H, W, C), and float32 (B, classes).
    """
    images = augment_view(key, images, view, mean, std, places=places, operations=operations)
    return random_mix(jax.random.fold_in(key, MIX), images, targets, weights, view)


def random_mix(
    key: jax.Array, images: jax.Array, labels: jax.Array, weights: jax.Array, view: View
) -> tuple[jax.Array, jax.Array]:
    """Apply mixup, CutMix or neither to the whole batch, with the probabilities of the view.

    Source: huggingface/pytorch-image-models timm/data/mixup.py, mode "batch".
    """
    if not view.mixup and not view.cutmix:
        return images, labels
    coin_key, choice_key, mixup_key, share_key, box_key = jax.random.split(key, 5)
    height, width = images.shape[1:3]
    if view.mixup:
        blend = jnp.full((1, height, width, 1), 1 - _beta(mixup_key, view.mixup))
    if view.cutmix:
        box = cutmix_box(box_key, 1 - _beta(share_key, view.cutmix), height, width)
        choice = jax.random.bernoulli(choice_key, view.switch_prob)
        blend = jnp.where(choice, box, blend) if view.mixup else box
    return mix(images, labels, weights, blend * jax.random.bernoulli(coin_key, view.mix_prob))


def mix(images: jax.Array, labels: jax.Array, weights: jax.Array, blend: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Blend each image, and its label, with the one at the mirrored position of the batch.

    Args:
      images, labels: (B, H, W, 3) and soft labels (B, C).
      weights: (B,); a pair in which one weight is 0 stays unchanged.
      blend: (1, H, W, 1), the partner's share of each pixel; its mean is the partner's share of the label.
        A constant is mixup, a box of ones is CutMix (with its true area after clipping at the edge).
    """
    pairs = ((weights > 0) & (weights[::-1] > 0)).astype(jnp.float32)
    share = blend * pairs.reshape(-1, 1, 1, 1)
    label_share = blend.mean() * pairs.reshape(-1, 1)
    images = images * (1 - share) + images[::-1] * share
    return images, labels * (1 - label_share) + labels[::-1] * label_share


def cutmix_box(key: jax.Array, share: jax.Array, height: int, width: int) -> jax.Array:
    """Return float32 (1, H, W, 1): ones in a box of `share` of the area, centred anywhere, clipped at the edge."""
    row, column = jnp.floor(jax.random.uniform(key, (2,)) * jnp.array([height, width]))
    tall, wide = jnp.floor(height * jnp.sqrt(share)), jnp.floor(width * jnp.sqrt(share))
    top, left = row - tall // 2, column - wide // 2
    edges = (edge.reshape(1, 1) for edge in (top, top + tall, left, left + wide))
    return box_of(height, width, *edges).astype(jnp.float32)


def _beta(key: jax.Array, alpha: float) -> jax.Array:
    """Draw from Beta(alpha, alpha), float32 ()."""
    return jax.random.uniform(key) if alpha == 1 else jax.random.beta(key, alpha, alpha)
