"""Detection by queries: which query learns which object, the losses of class and box, and noisy true objects.

Sources: Zhu et al. 2021, Deformable DETR (arXiv:2010.04159), focal costs and losses; huggingface/transformers
loss/loss_deformable_detr.py; Zhang et al. 2023, DINO (arXiv:2203.03605), section 3.3, and huggingface/transformers
models/rt_detr/modeling_rt_detr.py (get_contrastive_denoising_training_group) for the noise.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdino.models.boxes import areas, corners, overlaps
from jaxdino.models.heads.detr import Noised
from jaxdino.objectives.detect import focal, giou_loss
from jaxdino.objectives.matching import matched

COVERED = 0.5  # share of a box in a crowd or a cut object from which it is no error
FLIPPED = 0.25  # share of the noisy objects that have another class
EPS = 1e-8

Arrays = dict[str, jax.Array]


def costs(logits: jax.Array, boxes: jax.Array, labels: jax.Array, truth: jax.Array, how: Any) -> jax.Array:
    """Return the cost (M, Q) of each query for each object: class, distance of the boxes, generalised overlap.

    Args:
      logits: (Q, classes). boxes: (Q, 4), truth: (M, 4), centre, width and height in 0..1. labels: (M,).
    """
    odds = jax.nn.sigmoid(logits)
    positive = how.alpha * (1 - odds) ** how.gamma * -jnp.log(odds + EPS)
    negative = (1 - how.alpha) * odds**how.gamma * -jnp.log(1 - odds + EPS)
    classes = (positive - negative)[:, labels].T
    apart = jnp.abs(truth[:, None] - boxes[None]).sum(axis=-1)
    overlap = giou_loss(corners(boxes)[None], corners(truth)[:, None]) - 1
    return how.class_weight * classes + how.box_weight * apart + how.giou_weight * overlap


def noisy(key: jax.Array, labels: jax.Array, truth: jax.Array, valid: jax.Array, classes: int, groups: int) -> Noised:
    """Return noisy copies of the objects of images: in each group of 2 M, first M near ones, then M farther ones.

    A corner of a near one moves by up to half of a side, of a farther one by half a side to a whole one.

    Args:
      labels, valid: (B, M). truth: (B, M, 4), centre, width and height in 0..1.
    """
    keys = jax.random.split(key, 4)
    batch, slots = labels.shape
    many = (batch, groups, 2, slots)
    spread = lambda values: jnp.broadcast_to(values[:, None, None], (*many, *values.shape[2:]))  # noqa: E731
    other = jax.random.randint(keys[0], many, 0, classes)
    named = jnp.where(jax.random.bernoulli(keys[1], FLIPPED, many), other, spread(labels))
    sign = 2.0 * jax.random.bernoulli(keys[2], 0.5, (*many, 4)) - 1
    part = jax.random.uniform(keys[3], (*many, 4)) + jnp.arange(2.0)[None, None, :, None, None]
    sides = jnp.concatenate([truth[..., 2:], truth[..., 2:]], axis=-1)
    moved = jnp.clip(spread(corners(truth)) + sign * part * spread(sides) / 2, 0, 1)
    low, high = jnp.minimum(moved[..., :2], moved[..., 2:]), jnp.maximum(moved[..., :2], moved[..., 2:])
    boxes = jnp.concatenate([(low + high) / 2, high - low], axis=-1)
    flat = lambda values, *rest: values.reshape(batch, -1, *rest)  # noqa: E731
    return Noised(flat(named), flat(boxes, 4), flat(spread(valid > 0)), groups)


@dataclasses.dataclass(frozen=True)
class DetectQueries:
    """The losses of queries: focal loss of the classes, distance and generalised overlap of the matched boxes.

    All are also computed of the proposals, of each earlier layer, and of the noisy objects, and added.

    Attributes:
      classes: number of them. denoising: most noisy queries of an image, in as many groups as fit; 0: off.
      others: see `detect_settings.Detecting`.
    """

    classes: int
    alpha: float = 0.25
    gamma: float = 2.0
    class_weight: float = 2.0
    box_weight: float = 5.0
    giou_weight: float = 2.0
    denoising: int = 100
    measures: ClassVar[tuple[str, ...]] = ("class_loss", "box_loss", "giou_loss")

    def targets(self, moving: dict, frozen: dict, parts: dict) -> tuple[dict, dict, dict]:
        """Add the objects of the mean image, so that slices weigh by their images."""
        weight = parts["weight"]
        objects = jnp.sum(jnp.sum(parts["box_valid"], axis=-1) * weight) / jnp.maximum(jnp.sum(weight), 1e-12)
        return parts | {"mean_objects": jnp.broadcast_to(objects, weight.shape)}, {}, {}

    def loss(self, model: Any, batch: Arrays, key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Compute the losses of a slice.

        Args:
          model: images -> output with the predictions of `heads.detr.DETRHead`, as `model.head`.
          batch: image (B, H, W, 3) float, normalised; the entries of `box_field.BoxField`; weight (B,); what `targets`
            adds.
          key: random key, for the noise; None: no noisy objects.

        Returns:
          (loss, its three parts), scalars in float32. Images without an object learn that there is none.
        """
        _, height, width, _ = batch["image"].shape
        given = batch["boxes"] / jnp.array([width, height, width, height], jnp.float32)[None, None]
        truth = jnp.concatenate([(given[..., :2] + given[..., 2:]) / 2, given[..., 2:] - given[..., :2]], axis=-1)
        labels, valid, ignored = (batch[name] for name in ("box_labels", "box_valid", "box_ignored"))
        groups = max(1, self.denoising // (2 * labels.shape[1])) if self.denoising and key is not None else 0
        if groups and key is not None:
            own = jax.random.fold_in(key, 1)
            model.head.noised = noisy(own, labels, truth, valid, self.classes, groups)
        found = model(batch["image"], key=key).predictions
        logits, boxes = found["logits"][:, None], found["boxes"][:, None]
        if "aux_logits" in found:
            logits = jnp.concatenate([logits, found["aux_logits"]], axis=1)
            boxes = jnp.concatenate([boxes, found["aux_boxes"]], axis=1)
        each = jax.vmap(jax.vmap(self.of_image, in_axes=(0, 0, *(None,) * 4)))
        sums = jax.tree.map(lambda one: one.sum(axis=1), each(logits, boxes, labels, truth, valid, ignored))
        if groups:
            each = jax.vmap(jax.vmap(self.of_noised, in_axes=(0, 0, *(None,) * 3)), in_axes=(0, 0, 0, 0, 0))
            more = each(found["noised_logits"], found["noised_boxes"], labels, truth, valid)
            sums = jax.tree.map(lambda one, other: one + other.sum(axis=1) / groups, sums, more)
        weight = batch["weight"].astype(jnp.float32)
        whole = jnp.maximum(batch["mean_objects"][0] * jnp.sum(weight), 1.0)
        losses = {name: jnp.sum(sums[name] * weight) / whole for name in self.measures}
        return sum(losses.values(), start=jnp.zeros(())), losses

    def of_image(
        self, logits: jax.Array, boxes: jax.Array, labels: jax.Array, truth: jax.Array, valid: jax.Array, ignored: Any
    ) -> Arrays:
        """Return the three sums of an image, weighted: over its queries, and twice over its objects.

        Args:
          logits: (Q, classes). boxes: (Q, 4). labels, valid, ignored: (M,). truth: (M, 4).
        """
        still = jax.lax.stop_gradient((logits, boxes))
        query = matched(costs(*still, labels, truth, self), valid)
        goal = jnp.zeros_like(logits).at[query, labels].set(1.0, mode="drop")  # empty slots are beyond the last query
        inter, _ = overlaps(corners(still[1])[:, None], corners(truth)[None])
        covered = inter / jnp.maximum(areas(corners(still[1])), EPS)[:, None] * (ignored > 0)[None]
        counted = (goal.max(axis=-1) > 0) | (covered.max(axis=-1, initial=0.0) < COVERED)
        own = boxes[jnp.minimum(query, len(boxes) - 1)]
        return self.sums(logits, goal, counted, own, truth, valid)

    def of_noised(self, logits: jax.Array, boxes: jax.Array, labels: jax.Array, truth: jax.Array, valid: Any) -> Arrays:
        """Return the sums of the noisy objects of an image: near ones find the true object, farther ones nothing."""
        slots = len(labels)
        times = len(logits) // (2 * slots)
        near = jnp.tile(jnp.repeat(jnp.array([1.0, 0.0]), slots), times)
        used = jnp.tile(valid, 2 * times)
        goal = jax.nn.one_hot(jnp.tile(labels, 2 * times), logits.shape[-1]) * (near * used)[:, None]
        return self.sums(logits, goal, used > 0, boxes, jnp.tile(truth, (2 * times, 1)), near * used)

    def sums(
        self, logits: jax.Array, goal: jax.Array, counted: jax.Array, boxes: jax.Array, truth: jax.Array, valid: Any
    ) -> Arrays:
        """Return the weighted sums of the focal loss, and of distance and 1 - generalised overlap of pairs of boxes."""
        classes = jnp.sum(focal(logits, goal, self.alpha, self.gamma) * counted[:, None])
        apart = jnp.sum(jnp.abs(boxes - truth).sum(axis=-1) * valid)
        overlap = jnp.sum(giou_loss(corners(boxes), corners(truth)) * valid)
        values = (self.class_weight * classes, self.box_weight * apart, self.giou_weight * overlap)
        return dict(zip(self.measures, values, strict=True))
