"""Softmax cross entropy, with soft labels, label smoothing and example weights."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Classify:
    """Classification of whole images.

    Attributes:
      smoothing: share of the target that is spread evenly over all classes, including the true one (as in torch), in
        0..1.
    """

    smoothing: float = 0.0
    measures: ClassVar[tuple[str, ...]] = ("accuracy",)

    def targets(self, moving: dict, frozen: dict, parts: dict) -> tuple[dict, dict, dict]:
        """Return everything unchanged: the labels are the targets."""
        return parts, {}, {}

    def loss(self, model: Any, batch: dict[str, jax.Array], key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Compute the weighted mean loss over a batch.

        Args:
          model: images -> output with `.logits` (B, C).
          batch: image (B, H, W, 3) float, normalised; label (B,) classes or (B, C) soft targets; weight (B,).
          key: random key for drop path; None in evaluation.

        Returns:
          (loss, {"accuracy": weighted mean}), scalars in float32.
        """
        out = model(batch["image"], key=key)
        logits = out.logits.astype(jnp.float32)
        target = soften(batch["label"], logits.shape[-1], self.smoothing)
        losses = -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
        hits = (jnp.argmax(logits, -1) == jnp.argmax(target, -1)).astype(jnp.float32)
        weight = batch["weight"].astype(jnp.float32)
        return weighted_mean(losses, weight), {"accuracy": weighted_mean(hits, weight)}


def soften(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Convert (B,) classes or (B, C) soft targets to smoothed (B, C) targets."""
    soft = labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)
    return soft * (1.0 - smoothing) + smoothing / num_classes


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Compute the weighted mean; 0 if all weights are 0."""
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1e-12)
