"""Augment batches on the device, inside jit: uint8 input, normalised float32 output.

Images are (B, H, W, C), float in 0..1 until they are normalised. The strengths come from a preset (see
`jaxdino.data.transforms.PRESETS`), plain Python data: steps that it leaves out are not compiled. The colour functions
also take planes, (B, 3, H, W) with axis=1, which are several times as fast on a CPU.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdino.data.transforms import get_preset

GREY = (0.2989, 0.587, 0.114)  # torchvision's luma weights
RGB = 3
ERASE_TRIES = 10


def augment(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
    preset: str | Mapping[str, Any],
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int,
) -> tuple[jax.Array, jax.Array]:
    """Augment one batch of training images and return it with soft labels.

    Order: flips, colour jitter, grey, normalise, erase, mix. All steps but the mixing are drawn per image; mixup or
    CutMix is drawn once per batch, as timm does by default, and pairs each image with the one at the mirrored position
    of the batch. Rows of weight 0 are not mixed.

    Args:
      key: a jax random key; the same key gives the same batch.
      images: uint8 (B, H, W, C).
      labels: int (B,).
      weights: float (B,), 0 for padding and unreadable images.
      preset: name or mapping; static under jit.
      mean, std: C numbers each, for images in 0..1.
      num_classes: C.

    Returns:
      float32 (B, H, W, C), and float32 (B, C) whose rows sum to 1.
    """
    preset = get_preset(preset)
    flip_key, colour_key, erase_key, mix_key = jax.random.split(key, 4)
    images = images.astype(jnp.float32) / 255
    images = random_flip(flip_key, images, preset["hflip"], preset["vflip"])
    images = random_colour(colour_key, images, preset)
    images = standardise(images, mean, std)
    images = random_erase(erase_key, images, preset["erase_prob"], preset["erase_area"], preset["erase_ratio"])
    return random_mix(mix_key, images, jax.nn.one_hot(labels, num_classes), weights, preset)


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Convert uint8 (B, H, W, C) to float32 (x / 255 - mean) / std; mean and std have C values."""
    return standardise(images.astype(jnp.float32) / 255, mean, std)


def standardise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    mean, std = (jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (mean, std))
    return (images - mean) / std


def _coins(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Return bool (B, 1, 1, 1), true with the given probability."""
    return jax.random.bernoulli(key, probability, (images.shape[0], 1, 1, 1))


def random_flip(key: jax.Array, images: jax.Array, hflip: float, vflip: float) -> jax.Array:
    """Flip each image horizontally and vertically with the given probabilities."""
    h_key, v_key = jax.random.split(key)
    if hflip:
        images = jnp.where(_coins(h_key, images, hflip), images[:, :, ::-1], images)
    if vflip:
        images = jnp.where(_coins(v_key, images, vflip), images[:, ::-1], images)
    return images


def random_colour(key: jax.Array, images: jax.Array, preset: Mapping[str, Any], axis: int = -1) -> jax.Array:
    """Jitter brightness, contrast, saturation and hue in this order, then grey; strengths are drawn per image.

    torchvision's ColorJitter also draws the order; a fixed order keeps the batch one fused computation. Images without
    red, green and blue get only brightness and contrast.
    """
    colours = images.shape[axis] == RGB
    keys = jax.random.split(key, 6)
    shape = (images.shape[0], 1, 1, 1)
    changed = images
    for name, change, part in (
        ("brightness", adjust_brightness, keys[0]),
        ("contrast", adjust_contrast, keys[1]),
        ("saturation", adjust_saturation, keys[2]),
    ):
        if (strength := preset[name]) and (colours or change is not adjust_saturation):
            low, high = max(0.0, 1 - strength), 1 + strength
            changed = change(changed, jax.random.uniform(part, shape, minval=low, maxval=high), axis)
    if colours and (hue := preset["hue"]):
        changed = adjust_hue(changed, jax.random.uniform(keys[3], shape, minval=-hue, maxval=hue), axis)
    if changed is not images and preset["jitter_prob"] < 1:
        changed = jnp.where(_coins(keys[4], images, preset["jitter_prob"]), changed, images)
    if colours and preset["gray_prob"]:
        grey = jnp.broadcast_to(to_grey(changed, axis), changed.shape)
        changed = jnp.where(_coins(keys[5], images, preset["gray_prob"]), grey, changed)
    return changed


def to_grey(images: jax.Array, axis: int = -1) -> jax.Array:
    """Return the luma, with one channel along `axis`."""
    red, green, blue = (part * weight for part, weight in zip(jnp.split(images, 3, axis), GREY, strict=True))
    return red + green + blue


def adjust_brightness(images: jax.Array, factor: jax.Array, axis: int = -1) -> jax.Array:
    """Multiply by `factor` (B, 1, 1, 1) and clip to 0..1."""
    del axis
    return jnp.clip(images * factor, 0, 1)


def adjust_contrast(images: jax.Array, factor: jax.Array, axis: int = -1) -> jax.Array:
    """Scale each image about its mean grey by `factor` (1 keeps the image); without RGB, per band."""
    if images.shape[axis] == RGB:
        mean = to_grey(images, axis).mean(axis=(1, 2, 3), keepdims=True)
    else:
        mean = images.mean(axis=(1, 2) if axis == -1 else (2, 3), keepdims=True)
    return jnp.clip(images * factor + mean * (1 - factor), 0, 1)


def adjust_saturation(images: jax.Array, factor: jax.Array, axis: int = -1) -> jax.Array:
    """Scale each pixel about its grey by `factor` (1 keeps the image)."""
    return jnp.clip(images * factor + to_grey(images, axis) * (1 - factor), 0, 1)


def adjust_hue(images: jax.Array, turns: jax.Array, axis: int = -1) -> jax.Array:
    """Shift every hue by `turns` (B, 1, 1, 1) of the colour circle; keep HSV saturation and value.

    Source: HSV as in Python's colorsys; the inverse as f(n) = v - (max - min) * clip(min(k, 4 - k), 0, 1),
    k = (n + 6 h) mod 6, with n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = jnp.split(images, 3, axis)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    spread = value - jnp.minimum(jnp.minimum(red, green), blue)
    safe = jnp.where(spread > 0, spread, 1)
    sector = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )

    def channel(n: float) -> jax.Array:
        k = sector + 6 * turns + n
        k = k - 6 * jnp.floor(k / 6)  # same as % 6, but vectorised
        return value - spread * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)

    return jnp.concatenate([channel(n) for n in (5.0, 3.0, 1.0)], axis)


def random_erase(
    key: jax.Array, images: jax.Array, probability: float, area: Sequence[float], ratio: Sequence[float]
) -> jax.Array:
    """Set one random box of each image to 0 (the mean colour after normalisation) with the given probability.

    Args:
      area: smallest and largest share of the image; drawn up to ten times until the box fits.
      ratio: smallest and largest height / width, drawn uniformly in the logarithm.

    Source: huggingface/pytorch-image-models timm/data/random_erasing.py, mode "const".
    """
    if not probability:
        return images
    batch, height, width, _ = images.shape
    area_key, ratio_key, place_key, coin_key = jax.random.split(key, 4)
    tries = (batch, ERASE_TRIES)
    share = jax.random.uniform(area_key, tries, minval=area[0], maxval=area[1]) * (height * width)
    low, high = jnp.log(jnp.asarray(ratio, jnp.float32))
    aspect = jnp.exp(jax.random.uniform(ratio_key, tries, minval=low, maxval=high))
    tall, wide = jnp.round(jnp.sqrt(share * aspect)), jnp.round(jnp.sqrt(share / aspect))
    fits = (tall < height) & (wide < width)
    first = jnp.argmax(fits, axis=1)[:, None]
    tall, wide, found = (jnp.take_along_axis(x, first, axis=1) for x in (tall, wide, fits))
    place = jax.random.uniform(place_key, (batch, 2))
    top = jnp.floor(place[:, :1] * (height - tall + 1))
    left = jnp.floor(place[:, 1:] * (width - wide + 1))
    inside = _box(height, width, top, top + tall, left, left + wide) & found[:, :, None, None]
    return jnp.where(inside & _coins(coin_key, images, probability), 0, images)


def _box(height: int, width: int, top, bottom, left, right) -> jax.Array:
    """Return bool (B, H, W, 1), true inside the boxes with edges (B, 1); bottom and right are excluded."""
    rows = jnp.arange(height).reshape(1, height)
    columns = jnp.arange(width).reshape(1, width)
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]


def random_mix(
    key: jax.Array, images: jax.Array, labels: jax.Array, weights: jax.Array, preset: Mapping[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """Apply mixup, CutMix or neither to the whole batch, with the probabilities of the preset.

    Source: huggingface/pytorch-image-models timm/data/mixup.py, mode "batch".
    """
    if not preset["mixup"] and not preset["cutmix"]:
        return images, labels
    coin_key, choice_key, mixup_key, share_key, box_key = jax.random.split(key, 5)
    height, width = images.shape[1:3]
    if preset["mixup"]:
        blend = jnp.full((1, height, width, 1), 1 - _beta(mixup_key, preset["mixup"]))
    if preset["cutmix"]:
        box = cutmix_box(box_key, 1 - _beta(share_key, preset["cutmix"]), height, width)
        choice = jax.random.bernoulli(choice_key, preset["switch_prob"])
        blend = jnp.where(choice, box, blend) if preset["mixup"] else box
    return mix(images, labels, weights, blend * jax.random.bernoulli(coin_key, preset["mix_prob"]))


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
    return _box(height, width, *edges).astype(jnp.float32)


def _beta(key: jax.Array, alpha: float) -> jax.Array:
    """Draw from Beta(alpha, alpha), float32 ()."""
    return jax.random.uniform(key) if alpha == 1 else jax.random.beta(key, alpha, alpha)
