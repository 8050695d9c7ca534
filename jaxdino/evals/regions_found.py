"""From the predictions of mask queries to objects and a map of all regions, in pixels of the image itself.

Sources: Cheng et al. 2021, MaskFormer (arXiv:2107.06278), section 3.4; facebookresearch/Mask2Former
mask2former/maskformer_model.py (instance_inference, panoptic_inference).
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.evals.instances import Found

LEAST = 0.02  # smallest probability of a region that is looked at
TOGETHER = 32  # masks, at most, that are drawn by one product: many small ones wait for threads
DRAWN = 2**26  # pixels of them: 256 MiB
OVERLAP = 0.5  # a region of whose mask less is left, under regions with a higher score, is dropped


def scored(predictions: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return the probability (B, Q) and the class (B, Q) of each query, "scores" and "labels", with its "masks"."""
    odds = jax.nn.softmax(predictions["logits"], axis=-1)[..., :-1]
    return {"scores": odds.max(axis=-1), "labels": jnp.argmax(odds, axis=-1), "masks": predictions["masks"]}


def resampling(count: int, view: int, cells: int, scale: float, start: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix (count, cells) from a mask's cells to pixels of the image, float32, and which are in view.

    Args:
      count: pixels of the image along the axis. view: those of the view. cells: of the mask, over the whole view.
      scale, start: the place x of the view is at scale x + start in the image.
    """
    at = (np.arange(count) + 0.5 - start) / scale
    place = np.clip(at * (cells / view) - 0.5, 0, cells - 1)
    low = np.minimum(place.astype(int), cells - 1)
    matrix = np.zeros((count, cells), np.float32)
    np.add.at(matrix, (np.arange(count), low), 1 - (place - low))
    np.add.at(matrix, (np.arange(count), np.minimum(low + 1, cells - 1)), place - low)
    return matrix, (at >= 0) & (at <= view)


def regions_found(
    scores: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray,
    view: tuple[int, int],
    origin: np.ndarray,
    full: tuple[int, int],
    things: Sequence[bool] = (),
    threshold: float = 0.5,
) -> Found:
    """Return what the queries of one image show; the highest score first.

    The score of an object is its probability times the mean probability of the pixels of its mask. A pixel belongs to
    the region with the highest product of both, of those of at least `threshold`; regions of a class without objects
    are one.

    Args:
      scores, labels: (Q,). masks: (Q, h, w), logits over the whole view. view: (height, width) of the view.
      origin: (4,) as `InstanceField` gives it. full: (height, width) of the image. things: for each class whether its
        regions are objects; () if all are.
    """
    rows, tall = resampling(full[0], view[0], masks.shape[1], origin[1], origin[3])
    columns, wide = resampling(full[1], view[1], masks.shape[2], origin[0], origin[2])
    inside = None if tall.all() and wide.all() else tall[:, None] & wide[None]
    kept = [place for place in np.argsort(-scores, kind="stable").tolist() if scores[place] >= LEAST]
    found, means = np.zeros((len(kept), *full), bool), np.zeros(len(kept))
    drawn: Any = None
    ids, best, chosen = np.zeros(full, np.int32), np.zeros(full, np.float32), []
    together = max(1, min(TOGETHER, DRAWN // max(1, math.prod(full))))
    for number, place in enumerate(kept):
        if number % together == 0:
            part = np.stack([masks[one] for one in kept[number : number + together]]).astype(np.float32)
            drawn = np.tensordot(np.tensordot(part, columns, (2, 1)), rows, (1, 1))  # (n, W, H)
        logits = drawn[number % together].T
        mask = np.greater(logits, 0, out=found[number])
        if inside is not None:
            mask &= inside
        odds = 1 / (1 + np.exp(-logits[mask]))
        means[number] = odds.mean() if len(odds) else 0.0
        if scores[place] >= threshold and len(odds):
            value = float(scores[place]) * odds
            better = value > best[mask]
            best[mask] = np.maximum(best[mask], value)
            chosen.append(number)
            ids[mask] = np.where(better, len(chosen), ids[mask])
    own = np.asarray(labels)[kept].astype(np.int64)
    ids, places = _joined(ids, own[chosen].tolist(), [found[n] for n in chosen], things)
    whole, regions = scores[kept] * means, np.array(chosen, int)[places]
    order = np.argsort(-whole, kind="stable")
    return Found(found[order], whole[order], own[order], ids, own[regions], whole[regions])


def _joined(
    ids: np.ndarray, labels: Sequence[int], masks: Sequence[np.ndarray], things: Sequence[bool]
) -> tuple[np.ndarray, np.ndarray]:
    """Drop mostly covered regions, and join those of classes without objects; return the map and what is left."""
    table, left, known = np.zeros(len(labels) + 1, np.int32), [], {}
    areas = np.bincount(ids.ravel(), minlength=len(labels) + 1)[1:]
    for number, (label, mask) in enumerate(zip(labels, masks, strict=True), 1):
        if areas[number - 1] == 0 or areas[number - 1] < OVERLAP * mask.sum():
            continue
        if things and not things[label] and label in known:
            table[number] = known[label]
            continue
        left.append(number - 1)
        table[number] = known[label] = len(left)
    return table[ids], np.array(left, np.int64)
