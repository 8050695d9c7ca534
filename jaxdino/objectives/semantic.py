"""Semantic segmentation: cross entropy of every pixel at the size of the mask."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdino.objectives.masks import IGNORED, upsampled


@dataclasses.dataclass(frozen=True)
class Semantic:
    """A class for every pixel.

    Attributes:
      smoothing: share of the target that is spread evenly over all classes, including the true one (as in torch), in
        0..1.
    """

    smoothing: float = 0.0
    measures: ClassVar[tuple[str, ...]] = ("pixel_accuracy",)

    def targets(self, moving: dict, frozen: dict, parts: dict) -> tuple[dict, dict, dict]:
        """Add the counted pixels of the mean image, so that slices with few counted pixels do not weigh more."""
        pixels = jnp.sum(_counted(parts["mask"]), axis=(-2, -1)) * parts["weight"]
        mean = jnp.sum(pixels) / jnp.maximum(jnp.sum(parts["weight"]), 1e-12)
        return parts | {"mean_pixels": jnp.broadcast_to(mean, parts["weight"].shape)}, {}, {}

    def loss(self, model: Any, batch: dict[str, jax.Array], key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Compute the mean cross entropy over the counted pixels of a batch, each with the weight of its image.

        Args:
          model: images -> output with `.logits` (B, h, w, C), which are resized to the mask bilinearly.
          batch: image (B, H, W, 3) float, normalised; mask (B, H, W), 0 to C - 1, or 255 for ignored pixels; weight
            (B,); for a slice of a batch, mean_pixels from `targets`.
          key: random key for drop path; None in evaluation.

        Returns:
          (loss, {"pixel_accuracy": weighted mean}), scalars in float32; 0 if no pixel counts.

        Source: torch.nn.functional.interpolate (bilinear, align_corners=False), then cross_entropy with
        ignore_index=255, as in facebookresearch/dinov3 dinov3/eval/segmentation/train.py.
        """
        mask, weight = batch["mask"], batch["weight"].astype(jnp.float32)
        logits = upsampled(model(batch["image"], key=key).logits, (mask.shape[1], mask.shape[2]))
        counted = _counted(mask)
        truth = jnp.where(mask == IGNORED, 0, mask).astype(jnp.int32)
        score = jnp.take_along_axis(logits, truth[..., None], axis=-1)[..., 0]
        score = (1 - self.smoothing) * score + self.smoothing * jnp.mean(logits, axis=-1)
        losses = jax.nn.logsumexp(logits, axis=-1) - score
        hits = (jnp.argmax(logits, axis=-1) == truth).astype(jnp.float32)
        pixels = jnp.sum(counted, axis=(1, 2)) * weight
        total = jnp.sum(pixels)
        if "mean_pixels" in batch:
            total = batch["mean_pixels"][0] * jnp.sum(weight)

        def mean(values: jax.Array) -> jax.Array:
            sums = jnp.sum(jnp.where(counted > 0, values, 0.0), axis=(1, 2))
            return jnp.sum(sums * weight) / jnp.maximum(total, 1e-12)

        return mean(losses), {"pixel_accuracy": mean(hits)}


def _counted(mask: jax.Array) -> jax.Array:
    """Return 1 for pixels that count and 0 for ignored ones, float32."""
    return (mask != IGNORED).astype(jnp.float32)
