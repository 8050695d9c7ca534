"""Binary cross entropy of each class, for images with several labels."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jaxdino.objectives.classify import soften, weighted_mean


@dataclasses.dataclass(frozen=True)
class Multilabel:
    """Every class of an image is there or not, independently of the others.

    Attributes:
      smoothing: share s of the target that is spread evenly over the C classes, in 0..1: 1 becomes 1 - s + s / C, and 0
        becomes s / C, as in timm's BinaryCrossEntropy.
    """

    smoothing: float = 0.0
    measures: ClassVar[tuple[str, ...]] = ("label_accuracy",)

    def targets(self, moving: dict, frozen: dict, parts: dict) -> tuple[dict, dict, dict]:
        """Return everything unchanged: the labels are the targets."""
        return parts, {}, {}

    def loss(self, model: Any, batch: dict[str, jax.Array], key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Compute the mean over classes, and then the weighted mean over images.

        Args:
          model: images -> output with `.logits` (B, C).
          batch: image (B, H, W, 3) float, normalised; labels (B, C), 0 to 1, which mixing may soften; weight (B,).
          key: random key for drop path; None in evaluation.

        Returns:
          (loss, {"label_accuracy": share of classes whose logit is on the right side of 0}), scalars in float32.

        Source: huggingface/pytorch-image-models timm/loss/binary_cross_entropy.py, which takes one class per image or
        targets that are smoothed before; torch.nn.functional.binary_cross_entropy_with_logits.
        """
        logits = model(batch["image"], key=key).logits.astype(jnp.float32)
        target = soften(batch["labels"].astype(jnp.float32), logits.shape[-1], self.smoothing)
        losses = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, target), axis=-1)
        hits = jnp.mean(((logits > 0) == (batch["labels"] > 0.5)).astype(jnp.float32), axis=-1)
        weight = batch["weight"].astype(jnp.float32)
        return weighted_mean(losses, weight), {"label_accuracy": weighted_mean(hits, weight)}
