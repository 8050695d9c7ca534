"""Binary cross entropy of each class, for images with several labels."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdino.objectives.classify import focus, weighted_mean


@dataclasses.dataclass(frozen=True)
class Multilabel:
    """Every class of an image is there or not, independently of the others.

    Attributes:
      smoothing: moves labels towards 0.5, in 0..1: 1 becomes 1 - smoothing / 2, and 0 becomes smoothing / 2.
      pos_weight: weight of the loss of images that have a class: one for all classes, or C.
      target_threshold: (smoothed) labels above it become 1, the others 0; None leaves them as they are.
      sum_classes: sum the losses of the classes of an image; otherwise they are averaged.
      focal_gamma: exponent of the focal loss; 0 disables it.
    """

    smoothing: float = 0.0
    pos_weight: float | tuple[float, ...] = 1.0
    target_threshold: float | None = None
    sum_classes: bool = False
    focal_gamma: float = 0.0
    measures: ClassVar[tuple[str, ...]] = ("label_accuracy",)

    def targets(self, moving: dict, frozen: dict, parts: dict) -> tuple[dict, dict, dict]:
        """Return everything unchanged: the labels are the targets."""
        return parts, {}, {}

    def loss(self, model: Any, batch: dict[str, jax.Array], key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Compute the mean (or sum) over classes, and then the weighted mean over images.

        Args:
          model: images -> output with `.logits` (B, C).
          batch: image (B, H, W, 3) float, normalised; labels (B, C), 0 to 1, which mixing may soften; weight (B,).
          key: random key for drop path; None in evaluation.

        Returns:
          (loss, {"label_accuracy": share of classes whose logit is on the right side of 0}), scalars in float32.

        Source: huggingface/pytorch-image-models timm/loss/binary_cross_entropy.py, BinaryCrossEntropy with
        smooth_dense=True; torch.nn.BCEWithLogitsLoss for pos_weight; torchvision.ops.sigmoid_focal_loss for
        focal_gamma.
        """
        logits_BxC = model(batch["image"], key=key).logits.astype(jnp.float32)
        labels_BxC = batch["labels"].astype(jnp.float32)
        target_BxC = labels_BxC * (1 - self.smoothing) + self.smoothing / 2
        if self.target_threshold is not None:
            target_BxC = (target_BxC > self.target_threshold).astype(jnp.float32)
        present, absent = jax.nn.softplus(-logits_BxC), jax.nn.softplus(logits_BxC)
        pos_weight = jnp.broadcast_to(jnp.asarray(self.pos_weight, jnp.float32), logits_BxC.shape)
        losses_BxC = pos_weight * target_BxC * present + (1 - target_BxC) * absent
        if self.focal_gamma:
            missed_BxC = target_BxC * jnp.exp(-absent) + (1 - target_BxC) * jnp.exp(-present)
            losses_BxC *= focus(missed_BxC, self.focal_gamma)
        losses = jnp.sum(losses_BxC, axis=-1) if self.sum_classes else jnp.mean(losses_BxC, axis=-1)
        hits = jnp.mean(((logits_BxC > 0) == (labels_BxC > 0.5)).astype(jnp.float32), axis=-1)
        weight = batch["weight"].astype(jnp.float32)
        return weighted_mean(losses, weight), {"label_accuracy": weighted_mean(hits, weight)}
