"""Boxes of dense detection in fixed shapes: places of predictions, overlap, non-maximum suppression.

Boxes are left, top, right, bottom in pixels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CANDIDATES = 300  # boxes of an image with the highest scores, before suppression
MOST = 100  # boxes of an image after it, as COCO counts them
OVERLAP = 0.6  # boxes of one class that overlap more are the same object; FCOS's value
EPS = 1e-7


class Grid(NamedTuple):
    """The L places of predictions in an image, over all levels of a pyramid.

    Attributes:
      centre: float32 (L, 2), x, y in pixels. stride: float32 (L,), the stride of the place's level. low, high: float32
        (L,), the smallest and largest side, measured from the place, of the objects that are learned there.
    """

    centre: np.ndarray
    stride: np.ndarray
    low: np.ndarray
    high: np.ndarray


def grid(size: tuple[int, int], strides: tuple[int, ...]) -> Grid:
    """Return the places of an image of (height, width), levels in order, rows first.

    A level of stride s learns objects whose farthest side is 4 s to 8 s away; the first also nearer ones, the last also
    farther ones.

    Source: Tian et al. 2019 (arXiv:1904.01355), sections 3.1 and 3.2.
    """
    parts = []
    for level, stride in enumerate(strides):
        height, width = (-(-side // stride) for side in size)
        y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        centre = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) * stride
        low, high = 4.0 * stride * (level > 0), 8.0 * stride if level < len(strides) - 1 else np.inf
        parts.append((centre, *(np.full(len(centre), value) for value in (stride, low, high))))
    return Grid(*(np.concatenate(part).astype(np.float32) for part in zip(*parts, strict=True)))


def decode(distances_xLx4: jax.Array, places: Grid) -> jax.Array:
    """Return the boxes (..., L, 4) of distances from each place to left, top, right, bottom, in strides."""
    lead = (1,) * (distances_xLx4.ndim - 2)
    centre, stride = places.centre.reshape(*lead, -1, 2), places.stride.reshape(*lead, -1, 1)
    pixels = distances_xLx4 * stride
    return jnp.concatenate([centre - pixels[..., :2], centre + pixels[..., 2:]], axis=-1)


def corners(boxes: jax.Array) -> jax.Array:
    """Return left, top, right and bottom of boxes (..., 4) that are given as centre, width and height."""
    return jnp.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], axis=-1)


def areas(boxes: jax.Array) -> jax.Array:
    """Return the areas (...) of boxes (..., 4)."""
    return jnp.prod(jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def overlaps(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the areas of intersection and union of boxes (..., 4), with broadcasting."""
    sides = jnp.minimum(first[..., 2:], second[..., 2:]) - jnp.maximum(first[..., :2], second[..., :2])
    inter = jnp.prod(jnp.maximum(sides, 0), axis=-1)
    return inter, areas(first) + areas(second) - inter


def suppressed(boxes_Nx4: jax.Array, scores_N: jax.Array, overlap: float = OVERLAP) -> jax.Array:
    """Return which of the boxes, in descending order of their scores, are kept, bool (N,): greedy suppression.

    A box is left out if it overlaps with a kept box before it by more than `overlap`, intersection over union; scores
    of 0 are empty.
    """
    inter, union = overlaps(boxes_Nx4[:, None], boxes_Nx4[None])
    close = inter > overlap * jnp.maximum(union, EPS)
    before = jnp.arange(len(scores_N))

    def step(place: int, kept: jax.Array) -> jax.Array:
        covered = jnp.any(close[place] & kept & (before < place))
        return kept.at[place].set(kept[place] & ~covered)

    return jax.lax.fori_loop(0, len(scores_N), step, scores_N > 0)


def detections(
    predictions: dict[str, jax.Array], size: tuple[int, int], strides: tuple[int, ...], least: float = 0.01
) -> dict[str, jax.Array]:
    """Return the objects of each image: boxes (B, K, 4), scores (B, K) and labels (B, K), K = `MOST`, best first.

    The score is the root of the product of the class's probability and the centerness. Empty slots have a score of 0.

    Args:
      predictions: see `heads.fcos.FCOSHead`, or `heads.detr.DETRHead`. size: (height, width) of the images.
      strides: of the levels; () for queries. least: smallest score.

    Source: Tian et al. 2020 (arXiv:2006.09214), section 3.3; pytorch/vision torchvision/models/detection/fcos.py.
    """
    if not strides:
        return of_queries(predictions, size, least)
    height, width = size
    logits = predictions["logits"]
    classes, edge = logits.shape[-1], jnp.array([width, height, width, height], jnp.float32)
    boxes_BxLx4 = jnp.clip(decode(predictions["distances"], grid(size, strides)), 0, edge[None, None])
    scores = jnp.sqrt(jax.nn.sigmoid(logits) * jax.nn.sigmoid(predictions["centerness"])[..., None])

    def one(boxes_Lx4: jax.Array, scores_LxC: jax.Array) -> dict[str, jax.Array]:
        best, places = jax.lax.top_k(scores_LxC.reshape(-1), min(CANDIDATES, scores_LxC.size))
        found, labels = boxes_Lx4[places // classes], places % classes
        best = jnp.where((best >= least) & (areas(found) > 0), best, 0.0)
        apart = found + (labels * (2.0 * max(size)))[:, None]  # boxes of several classes never overlap
        best = jnp.where(suppressed(apart, best), best, 0.0)
        best, order = jax.lax.top_k(best, min(MOST, len(best)))
        return {"boxes": found[order] * (best > 0)[:, None], "scores": best, "labels": labels[order]}

    return jax.vmap(one)(boxes_BxLx4, scores)


def of_queries(predictions: dict[str, jax.Array], size: tuple[int, int], least: float = 0.01) -> dict[str, jax.Array]:
    """Return the objects that queries find, as `detections`: the best pairs of query and class, without suppression.

    Source: Zhu et al. 2021, Deformable DETR (arXiv:2010.04159).
    """
    height, width = size
    edge = jnp.array([width, height, width, height], jnp.float32)
    boxes_BxQx4 = jnp.clip(corners(predictions["boxes"]), 0, 1) * edge[None, None]

    def one(boxes_Qx4: jax.Array, logits_QxC: jax.Array) -> dict[str, jax.Array]:
        scores = jax.nn.sigmoid(logits_QxC).reshape(-1)
        best, places = jax.lax.top_k(scores, min(MOST, len(scores)))
        found = boxes_Qx4[places // logits_QxC.shape[-1]]
        best = jnp.where((best >= least) & (areas(found) > 0), best, 0.0)
        best, order = jax.lax.top_k(best, len(best))
        labels = (places % logits_QxC.shape[-1])[order]
        return {"boxes": found[order] * (best > 0)[:, None], "scores": best, "labels": labels}

    return jax.vmap(one)(boxes_BxQx4, predictions["logits"])
