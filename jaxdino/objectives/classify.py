"""Softmax cross entropy, with soft labels, label smoothing, example weights, and corrections for rare classes."""

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
      class_weights: weight of the images of each class, C numbers, as in torch; None is 1 for all.
      focal_gamma: exponent of the focal loss; 0 disables it.
      logit_offset: added to the logits in training, C numbers; see `jaxdino.train.tasks.classify`.
    """

    smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    focal_gamma: float = 0.0
    logit_offset: tuple[float, ...] | None = None
    measures: ClassVar[tuple[str, ...]] = ("accuracy",)

    def targets(self, moving: dict, frozen: dict, parts: dict) -> tuple[dict, dict, dict]:
        """Return everything unchanged: the labels are the targets."""
        return parts, {}, {}

    def loss(self, model: Any, batch: dict[str, jax.Array], key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Compute the weighted mean loss over a batch.

        With class weights, `weight` must contain that of the image's class (`weighed`), by which a mean is divided.

        Args:
          model: images -> output with `.logits` (B, C).
          batch: image (B, H, W, 3) float, normalised; label (B,) classes or (B, C) soft targets; weight (B,).
          key: random key for drop path; None in evaluation.

        Returns:
          (loss, {"accuracy": weighted mean}), scalars in float32.

        Source: torch.nn.CrossEntropyLoss for class weights; Lin et al. 2017 (arXiv:1708.02002), equation 4, for the
        focal loss; Menon et al. 2021 (arXiv:2007.07314), equation 10, for the offset of the logits.
        """
        return self.of_logits(model(batch["image"], key=key).logits, batch)

    def of_logits(self, logits: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict]:
        """Compute `loss` from the logits (B, C) of the model."""
        logits = logits.astype(jnp.float32)
        target = soften(batch["label"], logits.shape[-1], self.smoothing)
        scored = target
        if self.class_weights is not None:
            weights_C = jnp.asarray(self.class_weights, jnp.float32)
            scored = target * weights_C[None] / self.of_class(batch["label"])[:, None]
        offset_C = 0.0 if self.logit_offset is None else jnp.asarray(self.logit_offset, jnp.float32)[None]
        log_p = jax.nn.log_softmax(logits + offset_C)
        if self.focal_gamma:
            scored *= focus(-jnp.expm1(log_p), self.focal_gamma)
        losses = -jnp.sum(scored * log_p, axis=-1)
        hits = (jnp.argmax(logits, -1) == jnp.argmax(target, -1)).astype(jnp.float32)
        weight = batch["weight"].astype(jnp.float32)
        return weighted_mean(losses, weight), {"accuracy": weighted_mean(hits, weight)}

    def of_class(self, labels: jax.Array) -> jax.Array:
        """Return the class weight of (B,) classes or (B, C) soft labels, float32 (B,)."""
        weights = jnp.asarray(self.class_weights, jnp.float32)
        return labels @ weights if labels.ndim == 2 else weights[labels]

    def weighed(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Return the batch with each image's `weight` multiplied by that of its class."""
        if self.class_weights is None:
            return batch
        return batch | {"weight": batch["weight"] * self.of_class(batch["label"])}


def focus(missed: jax.Array, gamma: float) -> jax.Array:
    """Return the factor of the focal loss, (1 - p) ** gamma, with a finite gradient where 1 - p is 0."""
    return jnp.maximum(missed, 1e-7) ** gamma


def soften(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Convert (B,) classes or (B, C) soft targets to smoothed (B, C) targets."""
    soft = labels if labels.ndim == 2 else jax.nn.one_hot(labels, num_classes)
    return soft * (1.0 - smoothing) + smoothing / num_classes


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Compute the weighted mean; 0 if all weights are 0."""
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1e-12)
