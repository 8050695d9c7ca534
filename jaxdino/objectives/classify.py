"""Softmax cross entropy, with soft labels, label smoothing and example weights."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Classify:
    """Classification of whole images.

    Attributes:
      smoothing: share of the target that is spread evenly over all classes, in 0..1. As in torch, the true class
        gets its even part of it too.
    """

    smoothing: float = 0.0
    measures: ClassVar[tuple[str, ...]] = ("accuracy",)

    def targets(self, moving: dict, frozen: dict, parts: dict) -> tuple[dict, dict, dict]:
        """The labels are the targets: nothing is added, nothing else moves, nothing else is watched."""
        return parts, {}, {}

    def loss(self, model: Any, batch: dict[str, jax.Array], key: jax.Array | None) -> tuple[jax.Array, dict]:
        """The weighted mean loss over a batch.

        Args:
          model: images -> output with `.logits` (B, C).
          batch: image (B, H, W, 3) float, normalised; label (B,) classes or (B, C) soft targets; weight (B,).
          key: for drop path; None evaluates.

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
    """(B,) classes or (B, C) soft targets -> (B, C) targets, smoothed."""
    soft = labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)
    return soft * (1.0 - smoothing) + smoothing / num_classes


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum of weights x values over the sum of weights; 0 where all weights are 0."""
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1e-12)
