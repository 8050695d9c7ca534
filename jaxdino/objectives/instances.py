"""Mask queries: which query learns which object, and the losses of class and mask.

Each true object is matched with one query by the smallest sum of costs, found by the Hungarian algorithm inside of the
compiled step; the other queries learn that they show nothing.

Sources: Cheng et al. 2022, Mask2Former (arXiv:2112.01527), section 3.2 and 3.3; Kerssies et al. 2025, EoMT
(arXiv:2503.19108), section 3.3 for the annealing; huggingface/transformers models/eomt/modeling_eomt.py; Kirillov et
al. 2020, PointRend (arXiv:1912.08193), for the points.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdino.models.heads.mask_queries import Shares
from jaxdino.objectives.masks import cell_shares
from jaxdino.objectives.matching import matched

OVERSAMPLED = 3  # points drawn for each that is kept
CERTAIN = 0.25  # share of the points that are drawn evenly
POWER = 0.9  # of the annealing

Arrays = dict[str, jax.Array]


def corners(points_Px2: jax.Array, size: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Return the four pixels around points, as indices into (h w), int32 (P, 4), and their weights (P, 4).

    Points are x, y in 0..1; pixels outside of the image have the weight 0, as in torch's `grid_sample` without
    align_corners.
    """
    height, width = size
    at = points_Px2 * jnp.array([[width, height]], jnp.float32) - 0.5
    low = jnp.floor(at)
    part = at - low
    index, weight = [], []
    for right in (0, 1):
        for below in (0, 1):
            x, y = low[:, 0] + right, low[:, 1] + below
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            share = (part[:, 0] if right else 1 - part[:, 0]) * (part[:, 1] if below else 1 - part[:, 1])
            index.append(jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1))
            weight.append(jnp.where(inside, share, 0.0))
    return jnp.stack(index, axis=-1).astype(jnp.int32), jnp.stack(weight, axis=-1)


def sampled(maps: jax.Array, points: jax.Array) -> jax.Array:
    """Return the values (n, P) of maps (n, h, w) at points (P, 2), the same for all, or (n, P, 2); bilinear."""
    flat = maps.reshape(len(maps), -1)
    if points.ndim == 2:
        index, weight = corners(points, maps.shape[1:])
        return jnp.sum(flat[:, index] * weight[None], axis=-1)
    index, weight = jax.vmap(lambda one: corners(one, maps.shape[1:]))(points)
    found = jnp.take_along_axis(flat, index.reshape(len(maps), -1), axis=1).reshape(index.shape)
    return jnp.sum(found * weight, axis=-1)


def truth_at(ids_HxW: jax.Array, points: jax.Array, slots: int) -> tuple[jax.Array, jax.Array]:
    """Return the true masks (M, P) at points, bilinear, and (M or 1, P) 1 where they count; see `InstanceField`.

    Args:
      points: (P, 2) for all masks, or (M, P, 2).
    """
    flat = ids_HxW.reshape(-1)
    number = jnp.arange(1, slots + 1)[:, None, None]
    index, weight = jax.vmap(lambda one: corners(one, ids_HxW.shape))(points if points.ndim == 3 else points[None])
    ids = flat[index]  # (M or 1, P, 4)
    known = jnp.sum((ids >= 0) * weight, axis=-1) >= 0.5 * jnp.sum(weight, axis=-1)
    return jnp.sum((ids == number) * weight, axis=-1), known.astype(jnp.float32)


def truth_in(ids_HxW: jax.Array, grid: tuple[int, ...], slots: int) -> tuple[jax.Array, jax.Array]:
    """Return the share (M, h w) of each cell that a true mask covers, and (1, h w) 1 where the cell counts."""
    number = jnp.arange(1, slots + 1)[:, None, None]
    truth = cell_shares((ids_HxW[None] == number).astype(jnp.int32), (grid[0], grid[1]))
    known = cell_shares((ids_HxW[None] >= 0).astype(jnp.int32), (grid[0], grid[1])) >= 0.5
    return truth.reshape(slots, -1), known.reshape(1, -1).astype(jnp.float32)


def cross_entropies(logits: jax.Array, truth: jax.Array) -> jax.Array:
    """Return the binary cross entropy of logits, of any shape."""
    return jax.nn.softplus(logits) - logits * truth


def costs(logits: jax.Array, masks: jax.Array, labels: jax.Array, truth: jax.Array, known: jax.Array, how: Any):
    """Return the cost (M, Q) of each query for each object: classes, cross entropy and Dice of the masks.

    Args:
      logits: (Q, classes + 1). masks: (Q, P), logits at points. labels: (M,). truth: (M, P). known: (1, P).
    """
    odds = jax.nn.softmax(logits, axis=-1)[:, labels].T
    counted = truth * known
    points = jnp.maximum(jnp.sum(known), 1.0)
    entropy = (known @ jax.nn.softplus(masks).T - counted @ masks.T) / points  # softplus(x) - x truth, summed
    p = jax.nn.sigmoid(masks) * known
    dice = 1 - (2 * counted @ p.T + 1) / (jnp.sum(counted, axis=1)[:, None] + jnp.sum(p, axis=1)[None] + 1)
    return how.mask_weight * entropy - how.class_weight * odds + how.dice_weight * dice


def uncertain(masks_MxHxW: jax.Array, key: jax.Array, count: int) -> jax.Array:
    """Return points (M, count, 2) of each mask, most of them where its logit is nearest to 0."""
    first, second = jax.random.split(key)
    slots, sure = len(masks_MxHxW), count - int((1 - CERTAIN) * count)
    drawn = jax.random.uniform(first, (slots, OVERSAMPLED * count, 2))
    order = jax.lax.top_k(-jnp.abs(sampled(masks_MxHxW, drawn)), count - sure)[1]
    chosen = jnp.take_along_axis(drawn, order[..., None], axis=1)
    return jnp.concatenate([chosen, jax.random.uniform(second, (slots, sure, 2))], axis=1)


@dataclasses.dataclass(frozen=True)
class Instances:
    """The losses of mask queries: cross entropy of the classes; cross entropy and Dice of the matched masks at points.

    All are also computed of the predictions before each layer, and added.

    Attributes:
      points: at which masks are compared; 0: at all of their cells.
      total_steps: of the stage, and blocks: that mask attention, for the annealing; 0 blocks without it.
      others: see `instances_settings.Masking`.
    """

    points: int = 2048
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    none_weight: float = 0.1
    total_steps: int = 1
    blocks: int = 0
    measures: ClassVar[tuple[str, ...]] = ("class_loss", "mask_loss", "dice_loss")

    def shares(self, step: jax.Array) -> jax.Array:
        """Return the probability (blocks,) that a block masks attention: 1, then falling to 0 block after block.

        Of L blocks, block i anneals from (i + 1) / (L + 2) to (i + 2) / (L + 2) of the stage, as EoMT's configurations.
        """
        each = self.total_steps / (self.blocks + 2)
        done = (step.astype(jnp.float32) - each * jnp.arange(1, self.blocks + 1)) / each
        return (1 - jnp.clip(done, 0, 1)) ** POWER

    def targets(self, moving: dict, frozen: dict, parts: dict) -> tuple[dict, dict, dict]:
        """Add the objects of the mean image, so that slices weigh by their images, and the shares of the annealing."""
        weight = parts["weight"]
        objects = jnp.sum(jnp.sum(parts["instance_valid"], axis=-1) * weight) / jnp.maximum(jnp.sum(weight), 1e-12)
        added = {"mean_objects": jnp.broadcast_to(objects, weight.shape)}
        if self.blocks:
            shares = self.shares(moving["step"])
            added["shares"] = jnp.broadcast_to(shares[None, None], (*weight.shape, self.blocks))
        return parts | added, {}, {}

    def loss(self, model: Any, batch: Arrays, key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Compute the losses of a slice.

        Args:
          model: images -> output with the predictions of `heads.mask_queries`.
          batch: image (B, H, W, C) float, normalised; the entries of `instance_field.InstanceField`; weight (B,); what
            `targets` adds.
          key: random key, for the points too; None draws the same points at each call.

        Returns:
          (loss, its three parts), scalars in float32. Images without an object learn that there is none.
        """
        if self.blocks:
            model.head.shares = Shares(batch["shares"][0])
        found = model(batch["image"], key=key).predictions
        logits, masks = found["logits"][:, None], found["masks"][:, None]
        if "aux_logits" in found:
            logits = jnp.concatenate([logits, found["aux_logits"]], axis=1)
            masks = jnp.concatenate([masks, found["aux_masks"]], axis=1)
        keys = jax.random.split(jax.random.key(0) if key is None else jax.random.fold_in(key, 1), logits.shape[:2])
        each = jax.vmap(jax.vmap(self.of_image, in_axes=(0, 0, None, None, None, 0)))
        ids, labels, valid = (batch[name] for name in ("instances", "instance_labels", "instance_valid"))
        sums = each(logits, masks, ids, labels, valid, keys)
        weight = batch["weight"].astype(jnp.float32)
        images = jnp.sum(weight)
        mean_objects = batch["mean_objects"][0]
        objects = jnp.maximum(mean_objects * images, 1.0)
        counted = self.none_weight * logits.shape[2] + (1 - self.none_weight) * mean_objects
        whole = dict(zip(self.measures, (jnp.maximum(counted * images, 1e-12), objects, objects), strict=True))
        scale = dict(zip(self.measures, (self.class_weight, self.mask_weight, self.dice_weight), strict=True))
        losses = {name: scale[name] * jnp.sum(sums[name] * weight[:, None]) / whole[name] for name in self.measures}
        return sum(losses.values(), start=jnp.zeros(())), losses

    def of_image(
        self, logits: jax.Array, masks: jax.Array, ids: jax.Array, labels: jax.Array, valid: jax.Array, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Return the three sums of an image: over its queries, and twice over its objects.

        Args:
          logits: (Q, classes + 1). masks: (Q, h, w). ids: (H, W). labels, valid: (M,).
        """
        first, second = jax.random.split(key)
        slots, still = len(labels), jax.lax.stop_gradient((logits, masks))
        if self.points:
            even = jax.random.uniform(first, (self.points, 2))
            (truth, known), places = truth_at(ids, even, slots), sampled(still[1], even)
        else:
            (truth, known), places = truth_in(ids, masks.shape[1:], slots), still[1].reshape(len(masks), -1)
        query = matched(costs(still[0], places, labels, truth, known, self), valid)
        own = jnp.minimum(query, len(logits) - 1)  # any mask for an empty slot
        values = masks[own].reshape(slots, -1)
        if self.points:
            points = uncertain(still[1][own], second, self.points)
            truth, known = truth_at(ids, points, slots)
            values = sampled(masks[own], points)
        counts = jnp.maximum(jnp.sum(known, axis=1), 1.0)
        entropy = jnp.sum(cross_entropies(values, truth) * known, axis=1) / counts
        p, truth = jax.nn.sigmoid(values) * known, truth * known
        dice = 1 - (2 * jnp.sum(p * truth, axis=1) + 1) / (jnp.sum(p, axis=1) + jnp.sum(truth, axis=1) + 1)
        none = logits.shape[-1] - 1
        goal = jnp.full(len(logits), none).at[query].set(labels, mode="drop")  # empty slots are beyond the last query
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), goal[:, None], axis=1)[:, 0]
        classes = jnp.sum(losses * jnp.where(goal == none, self.none_weight, 1.0))
        return dict(zip(self.measures, (classes, jnp.sum(entropy * valid), jnp.sum(dice * valid)), strict=True))
