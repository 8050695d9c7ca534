"""Dense detection: which object each place learns, and the losses of class, box and centerness.

Source: Tian et al. 2019 (arXiv:1904.01355) and 2020 (arXiv:2006.09214), FCOS.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdino.core.errors import UserError
from jaxdino.models.boxes import EPS, Grid, areas, decode, grid, overlaps

NEGATIVE, IGNORED = -1, -2
"""Classes of places that learn background, and of those that learn nothing."""


def assigned(batch: dict[str, jax.Array], places: Grid, radius: float) -> tuple[jax.Array, jax.Array]:
    """Return the class (B, L) that each place learns, and its box (B, L, 4).

    A place learns the smallest object in which it lies, less than `radius` strides from its centre along both axes, if
    the farthest side is in the range of its level. Others are background, or nothing inside of a box to ignore.

    Args:
      batch: boxes (B, M, 4), box_labels, box_valid, box_ignored (B, M); see `box_field.BoxField`.
    """

    def one(
        boxes_Mx4: jax.Array, labels: jax.Array, valid: jax.Array, ignored: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        centre_Lx1x2, corners_1xMx4 = places.centre[:, None], boxes_Mx4[None]
        low, high = centre_Lx1x2 - corners_1xMx4[..., :2], corners_1xMx4[..., 2:] - centre_Lx1x2
        far_LxM = jnp.maximum(low, high).max(axis=-1)
        inside = jnp.minimum(low, high).min(axis=-1) > 0
        off = jnp.abs(centre_Lx1x2 - (corners_1xMx4[..., :2] + corners_1xMx4[..., 2:]) / 2).max(axis=-1)
        near = off < radius * places.stride[:, None]
        level = (far_LxM >= places.low[:, None]) & (far_LxM < places.high[:, None])
        area = jnp.where(inside & near & level & (valid > 0)[None], areas(boxes_Mx4)[None], jnp.inf)
        chosen = jnp.argmin(area, axis=1)
        passed = jnp.any(inside & (ignored > 0)[None], axis=1)
        label = jnp.where(jnp.isfinite(area.min(axis=1)), labels[chosen], jnp.where(passed, IGNORED, NEGATIVE))
        return label, boxes_Mx4[chosen]

    return jax.vmap(one)(*(batch[name] for name in ("boxes", "box_labels", "box_valid", "box_ignored")))


def centerness(boxes: jax.Array, places: Grid) -> jax.Array:
    """Return how central a place (L) is in its box (..., L, 4), 0 to 1 in the centre; 0 outside."""
    centre = places.centre.reshape(*(1,) * (boxes.ndim - 2), -1, 2)
    low, high = centre - boxes[..., :2], boxes[..., 2:] - centre
    share = jnp.maximum(jnp.minimum(low, high), 0) / jnp.maximum(jnp.maximum(low, high), EPS)
    return jnp.sqrt(jnp.prod(share, axis=-1) + 1e-12)


def focal(logits: jax.Array, truth: jax.Array, alpha: float, gamma: float) -> jax.Array:
    """Return the focal loss of each logit. Source: Lin et al. 2017 (arXiv:1708.02002), with alpha for the positive."""
    entropy = binary_entropy(logits, truth)
    odds = jax.nn.sigmoid(logits)
    missed = odds * (1 - truth) + (1 - odds) * truth
    return (alpha * truth + (1 - alpha) * (1 - truth)) * missed**gamma * entropy


def binary_entropy(logits: jax.Array, truth: jax.Array) -> jax.Array:
    """Return the binary cross entropy of each logit."""
    return jnp.maximum(logits, 0) - logits * truth + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def giou_loss(found: jax.Array, truth: jax.Array) -> jax.Array:
    """Return 1 - generalised IoU of boxes (..., 4). Source: Rezatofighi et al. 2019 (arXiv:1902.09630)."""
    inter, union = overlaps(found, truth)
    low, high = jnp.minimum(found[..., :2], truth[..., :2]), jnp.maximum(found[..., 2:], truth[..., 2:])
    hull = jnp.prod(high - low, axis=-1)
    return 1 - inter / (union + EPS) + (hull - union) / (hull + EPS)


@dataclasses.dataclass(frozen=True)
class Detect:
    """The losses of FCOS: focal loss of the classes, GIoU of the boxes weighted by centerness, centerness.

    Attributes:
      strides: of the head's levels. size: (height, width) of the images. radius: see `assigned`.
      alpha, gamma: of the focal loss.
    """

    strides: tuple[int, ...]
    radius: float = 1.5
    alpha: float = 0.25
    gamma: float = 2.0
    measures: ClassVar[tuple[str, ...]] = ("class_loss", "box_loss", "centerness_loss")

    def targets(self, moving: dict, frozen: dict, parts: dict) -> tuple[dict, dict, dict]:
        """Add the positive places and their centerness in the mean image, so that slices weigh by their images."""
        *_, height, width, _ = parts["image"].shape
        places = grid((height, width), self.strides)
        names = ("boxes", "box_labels", "box_valid", "box_ignored")
        flat = {name: parts[name].reshape(-1, *parts[name].shape[2:]) for name in names}
        labels, boxes = assigned(flat, places, self.radius)
        weight = parts["weight"].reshape(-1)
        positive = (labels >= 0) * weight[:, None]
        images = jnp.maximum(jnp.sum(weight), 1e-12)
        sums = jnp.sum(positive), jnp.sum(positive * centerness(boxes, places))
        means = {"mean_places": sums[0] / images, "mean_centerness": sums[1] / images}
        return parts | {name: jnp.broadcast_to(mean, parts["weight"].shape) for name, mean in means.items()}, {}, {}

    def loss(self, model: Any, batch: dict[str, jax.Array], key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Compute the losses over the places of a slice, divided by the number of positive places.

        Args:
          model: images -> output with the predictions of `heads.fcos.FCOSHead`.
          batch: image (B, H, W, 3) float, normalised; the entries of `box_field.BoxField`; weight (B,); what `targets`
            adds.

        Returns:
          (loss, its three parts), scalars in float32. Images without an object learn background.
        """
        found = model(batch["image"], key=key).predictions
        _, height, width, _ = batch["image"].shape
        places = grid((height, width), self.strides)
        if found["logits"].shape[1] != len(places.stride):
            raise UserError(
                f"images of {height} x {width} pixels do not fit the strides "
                f"{self.strides} of the detection head: use sides that are multiples of {self.strides[-2]}"
            )
        labels, boxes = assigned(batch, places, self.radius)
        weight = batch["weight"].astype(jnp.float32)[:, None]
        positive, counted = (labels >= 0) * weight, (labels != IGNORED) * weight
        truth = jax.nn.one_hot(labels, found["logits"].shape[-1])  # all 0 for negative labels
        central = centerness(boxes, places)
        images = jnp.sum(batch["weight"])
        count = jnp.maximum(batch["mean_places"][0] * images, 1.0)
        whole = jnp.maximum(batch["mean_centerness"][0] * images, 1e-6)
        classes = jnp.sum(focal(found["logits"], truth, self.alpha, self.gamma) * counted[..., None]) / count
        sides = jnp.where((labels >= 0)[..., None], boxes, 0)
        overlap = giou_loss(decode(found["distances"], places), sides)
        box = jnp.sum(jnp.where(positive > 0, overlap * positive * central, 0.0)) / whole
        centre = jnp.sum(binary_entropy(found["centerness"], central) * positive) / count
        return classes + box + centre, {"class_loss": classes, "box_loss": box, "centerness_loss": centre}
