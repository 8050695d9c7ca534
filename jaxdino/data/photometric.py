"""Augment and normalise images on the device, inside jit: uint8 input, normalised float32 output.

Images are (B, H, W, C), float in 0..1 until they are normalised; photometric steps take planes, (B, C, H, W), which are
several times as fast on a CPU. The strengths come from a `recipe.View`, plain data: steps that it leaves out are not
compiled. Crops, rotations and flips are made on the host (`geometry`).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdino.data.recipe import View, without_geometry

GREY = (0.2989, 0.587, 0.114)  # torchvision's luma weights
RGB = 3
ERASE_TRIES = 10
NOISE, ERASE = 4, 5  # what the keys of these steps are folded in with
REACH = 3.0  # radius of the blur kernel, in standard deviations


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Convert uint8 (B, H, W, C) to float32 (x / 255 - mean) / std; mean and std have C values."""
    return standardise(images.astype(jnp.float32) / 255, mean, std)


def standardise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    mean, std = (jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (mean, std))
    return (images - mean) / std


def augment_views(
    key: jax.Array, images: jax.Array, recipes: Sequence[View], mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """Augment the views of a batch of images, each by its recipe; all draws are per view and per image.

    Order: jitter, grey, blur, solarise, noise, normalise, erase.

    Args:
      key: a jax random key; the same key gives the same views.
      images: uint8 (B, V, H, W, C).
      recipes: V views (see `recipe.expanded`); static under jit.
      mean, std: C numbers each, for images in 0..1.

    Returns:
      float32 (B, V, H, W, C).

    Source: facebookresearch/dino main_dino.py DataAugmentationDINO.
    """
    if len(recipes) != images.shape[1]:
        raise ValueError(f"{len(recipes)} recipes for {images.shape[1]} views")
    places: dict[View, list[int]] = {}
    for place, view in enumerate(recipes):
        places.setdefault(without_geometry(view), []).append(place)
    done = []
    for recipe, views in places.items():
        chosen = images if len(views) == len(recipes) else images[:, jnp.array(views)]
        flat = chosen.reshape(-1, *chosen.shape[2:])
        done.append(augment_view(jax.random.fold_in(key, views[0]), flat, recipe, mean, std).reshape(chosen.shape))
    order = [place for views in places.values() for place in views]
    joined = jnp.concatenate(done, axis=1)
    return joined if order == sorted(order) else joined[:, jnp.argsort(jnp.array(order))]


def augment_view(
    key: jax.Array, images: jax.Array, recipe: View, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """Augment uint8 (n, H, W, C) by one recipe. Return float32 (n, H, W, C)."""
    _, colour_key, blur_key, solarize_key = jax.random.split(key, 4)
    planes = jnp.moveaxis(images, -1, 1).astype(jnp.float32) / 255
    planes = random_colour(colour_key, planes, recipe)
    planes = random_blur(blur_key, planes, recipe.blur_prob, recipe.blur_sigma)
    planes = random_solarize(solarize_key, planes, recipe.solarize_prob, recipe.solarize_threshold)
    planes = add_noise(jax.random.fold_in(key, NOISE), planes, recipe.noise)
    images = standardise(jnp.moveaxis(planes, 1, -1), mean, std)
    erase = recipe.erase_prob, recipe.erase_area, recipe.erase_ratio
    return random_erase(jax.random.fold_in(key, ERASE), images, *erase)


def random_blur(key: jax.Array, planes: jax.Array, probability: float, sigma: tuple[float, float]) -> jax.Array:
    """Blur each image with the given probability, by a Gaussian whose sigma is drawn uniformly from the interval."""
    if not probability or not sigma[1]:
        return planes
    sigma_key, coin_key = jax.random.split(key)
    sigmas = jax.random.uniform(sigma_key, planes.shape[:1], minval=sigma[0], maxval=sigma[1])
    coins = jax.random.bernoulli(coin_key, probability, planes.shape[:1])
    return gaussian_blur(planes, jnp.where(coins, sigmas, 0), math.ceil(REACH * sigma[1]))


def gaussian_blur(planes: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Blur (n, C, H, W) by Gaussians cut off at `radius` pixels, along the columns and then the rows.

    The edge pixels are repeated beyond the edges, as in Pillow. Where sigma (n,) is 0, the image is unchanged.
    """
    taps = gaussian_taps(sigma, radius)
    for axis in (2, 3):
        planes = _weighted_shifts(planes, taps, axis)
    return planes


def _weighted_shifts(planes: jax.Array, taps: jax.Array, axis: int) -> jax.Array:
    """Convolve each image with its own row of `taps` (n, K) along one axis, as a sum of K shifted copies.

    On two cores this is three to six times as fast as a matmul with band matrices. The barrier keeps XLA from
    repeating the padding for every shift.
    """
    radius, side = taps.shape[1] // 2, planes.shape[axis]
    widths = [(radius, radius) if dim == axis else (0, 0) for dim in range(4)]
    padded = jax.lax.optimization_barrier(jnp.pad(planes, widths, mode="edge"))
    shifts = (jax.lax.slice_in_dim(padded, k, k + side, axis=axis) for k in range(taps.shape[1]))
    return sum(shift * taps[:, k].reshape(-1, 1, 1, 1) for k, shift in enumerate(shifts))


def gaussian_taps(sigma: jax.Array, radius: int) -> jax.Array:
    """Return float32 (n, 2 radius + 1): sampled Gaussians that sum to 1; a single 1 where sigma (n,) is 0."""
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)[None]
    spread = 2 * jnp.maximum(sigma, 1e-3)[:, None] ** 2
    taps = jnp.exp(-jnp.square(offsets) / spread)
    return taps / taps.sum(axis=1, keepdims=True)


def random_solarize(key: jax.Array, planes: jax.Array, probability: float, threshold: float) -> jax.Array:
    """Invert all values of at least `threshold`, in each image with the given probability."""
    if not probability:
        return planes
    coins = jax.random.bernoulli(key, probability, (planes.shape[0], 1, 1, 1))
    # Half a level of slack: 128 of 255 is inverted despite rounding errors of earlier steps.
    return jnp.where(coins & (planes >= threshold - 0.5 / 255), 1 - planes, planes)


def add_noise(key: jax.Array, planes: jax.Array, strength: float) -> jax.Array:
    """Add Gaussian noise of this standard deviation to each value, and clip to 0..1."""
    return jnp.clip(planes + strength * jax.random.normal(key, planes.shape), 0, 1) if strength else planes


def _coins(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Return bool (B, 1, 1, 1), true with the given probability."""
    return jax.random.bernoulli(key, probability, (images.shape[0], 1, 1, 1))


def random_colour(key: jax.Array, images: jax.Array, view: View) -> jax.Array:
    """Jitter brightness, contrast, saturation and hue in this order, then grey; strengths are drawn per image.

    torchvision's ColorJitter also draws the order; a fixed order keeps the batch one fused computation. Images without
    red, green and blue get only brightness and contrast.
    """
    colours = images.shape[1] == RGB
    keys = jax.random.split(key, 6)
    shape = (images.shape[0], 1, 1, 1)
    changed = images
    for name, change, part in (
        ("brightness", adjust_brightness, keys[0]),
        ("contrast", adjust_contrast, keys[1]),
        ("saturation", adjust_saturation, keys[2]),
    ):
        if (strength := getattr(view, name)) and (colours or change is not adjust_saturation):
            low, high = max(0.0, 1 - strength), 1 + strength
            changed = change(changed, jax.random.uniform(part, shape, minval=low, maxval=high))
    if colours and (hue := view.hue):
        changed = adjust_hue(changed, jax.random.uniform(keys[3], shape, minval=-hue, maxval=hue))
    if changed is not images and view.jitter_prob < 1:
        changed = jnp.where(_coins(keys[4], images, view.jitter_prob), changed, images)
    if colours and view.gray_prob:
        grey = jnp.broadcast_to(to_grey(changed), changed.shape)
        changed = jnp.where(_coins(keys[5], images, view.gray_prob), grey, changed)
    return changed


def to_grey(images: jax.Array) -> jax.Array:
    """Return the luma, (B, 1, H, W)."""
    red, green, blue = (part * weight for part, weight in zip(jnp.split(images, 3, axis=1), GREY, strict=True))
    return red + green + blue


def adjust_brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiply by `factor` (B, 1, 1, 1) and clip to 0..1."""
    return jnp.clip(images * factor, 0, 1)


def adjust_contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Scale each image about its mean grey by `factor` (1 keeps the image); without RGB, per band."""
    if images.shape[1] == RGB:
        mean = to_grey(images).mean(axis=(1, 2, 3), keepdims=True)
    else:
        mean = images.mean(axis=(2, 3), keepdims=True)
    return jnp.clip(images * factor + mean * (1 - factor), 0, 1)


def adjust_saturation(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Scale each pixel about its grey by `factor` (1 keeps the image)."""
    return jnp.clip(images * factor + to_grey(images) * (1 - factor), 0, 1)


def adjust_hue(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Shift every hue by `turns` (B, 1, 1, 1) of the colour circle; keep HSV saturation and value.

    Source: HSV as in Python's colorsys; the inverse as f(n) = v - (max - min) * clip(min(k, 4 - k), 0, 1),
    k = (n + 6 h) mod 6, with n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = jnp.split(images, 3, axis=1)
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

    return jnp.concatenate([channel(n) for n in (5.0, 3.0, 1.0)], axis=1)


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
    inside = box_of(height, width, top, top + tall, left, left + wide) & found[:, :, None, None]
    return jnp.where(inside & _coins(coin_key, images, probability), 0, images)


def box_of(height: int, width: int, top, bottom, left, right) -> jax.Array:
    """Return bool (B, H, W, 1), true inside the boxes with edges (B, 1); bottom and right are excluded."""
    rows = jnp.arange(height).reshape(1, height)
    columns = jnp.arange(width).reshape(1, width)
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]
