"""Mosaics of a batch with boxes, on the device: four images around a random point, at a random scale each time.

Sources: Bochkovskiy et al. 2020, YOLOv4 (arXiv:2004.10934), section 3.3; Ge et al. 2021, YOLOX (arXiv:2107.08430),
whose last epochs are without.
"""

import jax
import jax.numpy as jnp

SCALES = (0.4, 1.0)  # of the four images, against the size of the batch
CENTRES = (0.3, 0.7)  # where they meet, as a share of the sides
GREY = 114  # of places that none of them covers

Arrays = dict[str, jax.Array]


def mosaic(key: jax.Array, batch: Arrays, share: float, visibility: float) -> Arrays:
    """Replace images of a batch by mosaics of themselves and three others, with the probability `share`.

    The corner of each of the four that is nearest to the meeting point lies on it. Images of weight 0 are not used.

    Args:
      batch: image uint8 (B, H, W, C); boxes (B, M, 4), box_labels, box_valid, box_ignored (B, M), see
        `box_field.BoxField`; weight (B,). Of the 4 M boxes of a mosaic, the M largest stay.
      visibility: smallest share of an object that a mosaic must show; otherwise it teaches nothing.
    """
    size, (coin, others, point, scale) = len(batch["image"]), jax.random.split(key, 4)
    orders = jnp.stack([jnp.arange(size), *(jax.random.permutation(one, size) for one in jax.random.split(others, 3))])
    chosen = jax.random.bernoulli(coin, share, (size,)) & jnp.all(batch["weight"][orders] > 0, axis=0)
    centres = jax.random.uniform(point, (size, 2), minval=CENTRES[0], maxval=CENTRES[1])
    scales = jax.random.uniform(scale, (size, 4), minval=SCALES[0], maxval=SCALES[1])
    names = ("image", "boxes", "box_labels", "box_valid", "box_ignored")
    four = {name: batch[name][orders].swapaxes(0, 1) for name in names}  # (B, 4, ...)
    made = jax.vmap(lambda *given: _one(*given, visibility))(four, centres, scales)
    return batch | {name: jnp.where(_like(chosen, batch[name]), made[name], batch[name]) for name in names}


def _like(chosen: jax.Array, array: jax.Array) -> jax.Array:
    return chosen.reshape(-1, *(1,) * (array.ndim - 1))


def _one(four: Arrays, centre: jax.Array, scales: jax.Array, visibility: float) -> Arrays:
    """Return one mosaic; its four images lie left and right above, then left and right below."""
    _, height, width, channels = four["image"].shape
    sides = jnp.array([width, height], jnp.float32)
    at = jnp.round(centre * sides)  # x, y
    canvas = jnp.full((height, width, channels), GREY, jnp.float32)
    boxes, whole = [], []
    for place in range(4):
        right, below = place % 2, place // 2
        low = at - scales[place] * sides * jnp.array([1 - right, 1 - below])  # where its left upper corner lies
        across, inside_x = _weights(width, low[0], scales[place])
        down, inside_y = _weights(height, low[1], scales[place])
        x, y = jnp.arange(width), jnp.arange(height)
        own_x = inside_x & ((x >= at[0]) if right else (x < at[0]))
        own_y = inside_y & ((y >= at[1]) if below else (y < at[1]))
        drawn = jnp.einsum("yh,xw,hwc->yxc", down, across, four["image"][place].astype(jnp.float32))
        canvas = jnp.where((own_y[:, None] & own_x[None])[..., None], drawn, canvas)
        moved = four["boxes"][place] * scales[place] + jnp.tile(low, 2)[None]
        first = jnp.where(jnp.array([right, below]) > 0, at, 0.0)
        last = jnp.where(jnp.array([right, below]) > 0, sides, at)
        boxes.append(jnp.clip(moved, jnp.tile(first, 2)[None], jnp.tile(last, 2)[None]))
        whole.append(moved)
    found = {name: four[name].reshape(-1) for name in ("box_labels", "box_valid", "box_ignored")}
    kept = _kept(jnp.concatenate(boxes), jnp.concatenate(whole), found, four["boxes"].shape[1], visibility)
    return kept | {"image": jnp.clip(jnp.round(canvas), 0, 255).astype(four["image"].dtype)}


def _weights(side: int, low: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the matrix (side, side) that scales a row of pixels and moves it to `low`, and which it covers.

    A pixel is the mean of those that it covers, weighted by a triangle as wide as they are.
    """
    at = (jnp.arange(side) + 0.5 - low) / scale - 0.5  # of each new pixel among the old ones
    reach = jnp.maximum(1 / scale, 1.0)
    weights = jnp.maximum(1 - jnp.abs(at[:, None] - jnp.arange(side)[None]) / reach, 0)
    inside = (at >= -0.5) & (at < side - 0.5)
    return weights / jnp.maximum(jnp.sum(weights, axis=1, keepdims=True), 1e-6), inside


def _kept(boxes: jax.Array, whole: jax.Array, found: Arrays, slots: int, visibility: float) -> Arrays:
    """Return the largest boxes of those of four images, objects first; what is hardly shown is ignored."""
    area, full = _areas(boxes), _areas(whole)
    shown = (area > 0) & (found["box_valid"] + found["box_ignored"] > 0)
    valid = shown & (found["box_valid"] > 0) & (area >= visibility * full)
    order = jnp.argsort(jnp.where(valid, -area - 1e9, jnp.where(shown, -area, 1.0)))[:slots]
    used = shown[order]
    return {
        "boxes": jnp.where(used[:, None], boxes[order], 0.0),
        "box_labels": jnp.where(used, found["box_labels"][order], 0),
        "box_valid": (used & valid[order]).astype(jnp.float32),
        "box_ignored": (used & ~valid[order]).astype(jnp.float32),
    }


def _areas(boxes: jax.Array) -> jax.Array:
    return jnp.prod(jnp.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
