"""Semantic segmentation: losses of every pixel, and of every class of an image, at the size of the mask."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdino.objectives.masks import IGNORED, upsampled
from jaxdino.objectives.semantic_losses import dice_losses, lovasz_losses, near_boundary, pixel_losses


@dataclasses.dataclass(frozen=True)
class Semantic:
    """A class for every pixel.

    Attributes:
      smoothing: share of the target that is spread evenly over all classes, including the true one (as in torch), in
        0..1.
      cross_entropy, dice, lovasz: weights of the losses.
      focal_gamma: see `semantic_losses.pixel_losses`; class_weights: of the pixels of each class in it, () is 1 each.
      boundary: pixels with another class so near are not learned.
    """

    smoothing: float = 0.0
    cross_entropy: float = 1.0
    dice: float = 0.0
    lovasz: float = 0.0
    focal_gamma: float = 0.0
    class_weights: tuple[float, ...] = ()
    boundary: int = 0
    measures: ClassVar[tuple[str, ...]] = ("pixel_accuracy",)

    def targets(self, moving: dict, frozen: dict, parts: dict) -> tuple[dict, dict, dict]:
        """Add the counted pixels of the mean image, so that slices with few counted pixels do not weigh more."""
        mask = parts["mask"].reshape(-1, *parts["mask"].shape[-2:])
        counted = self.counted(mask)
        total = jnp.maximum(jnp.sum(parts["weight"]), 1e-12)
        for name, each in (("mean_pixels", counted), ("mean_weighed", counted * self.weighed(mask))):
            pixels = jnp.sum(each, axis=(-2, -1)).reshape(parts["weight"].shape) * parts["weight"]
            parts = parts | {name: jnp.broadcast_to(jnp.sum(pixels) / total, parts["weight"].shape)}
        return parts, {}, {}

    def counted(self, mask: jax.Array) -> jax.Array:
        """Return 1 for pixels (B, H, W) that are learned and 0 for others, float32."""
        return ((mask != IGNORED) & ~near_boundary(mask, IGNORED, self.boundary)).astype(jnp.float32)

    def weighed(self, mask: jax.Array) -> jax.Array:
        """Return the weight of each pixel's class, float32; of ignored ones any."""
        if not self.class_weights:
            return jnp.ones(mask.shape, jnp.float32)
        return jnp.asarray(self.class_weights, jnp.float32)[jnp.where(mask == IGNORED, 0, mask).astype(jnp.int32)]

    def loss(self, model: Any, batch: dict[str, jax.Array], key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Compute the weighted sum of the losses; that of pixels is the mean over the counted ones of a batch.

        With class weights that mean is weighted by them, as in torch. Dice and Lovasz are means over the images.

        Args:
          model: images -> output with `.logits` (B, h, w, C), which are resized to the mask bilinearly.
          batch: image (B, H, W, 3) float, normalised; mask (B, H, W), 0 to C - 1, or 255 for ignored pixels; weight
            (B,); for a slice of a batch, mean_pixels and mean_weighed from `targets`.
          key: random key for drop path; None in evaluation.

        Returns:
          (loss, {"pixel_accuracy": weighted mean}), scalars in float32; 0 if no pixel counts.

        Source: torch.nn.functional.interpolate (bilinear, align_corners=False), then cross_entropy with
        ignore_index=255, as in facebookresearch/dinov3 dinov3/eval/segmentation/train.py.
        """
        mask, weight = batch["mask"], batch["weight"].astype(jnp.float32)
        logits = upsampled(model(batch["image"], key=key).logits, (mask.shape[1], mask.shape[2]))
        counted, truth = self.counted(mask), jnp.where(mask == IGNORED, 0, mask).astype(jnp.int32)

        def mean(values: jax.Array, each: jax.Array, name: str) -> jax.Array:
            total = jnp.sum(jnp.sum(each, axis=(1, 2)) * weight)
            if name in batch:
                total = batch[name][0] * jnp.sum(weight)
            sums = jnp.sum(jnp.where(each > 0, values * each, 0.0), axis=(1, 2))
            return jnp.sum(sums * weight) / jnp.maximum(total, 1e-12)

        loss = jnp.zeros(())
        if self.cross_entropy:
            losses = pixel_losses(logits, truth, self.smoothing, self.focal_gamma)
            loss += self.cross_entropy * mean(losses, counted * self.weighed(mask), "mean_weighed")
        shares = jax.nn.softmax(logits, axis=-1) if self.dice or self.lovasz else logits
        for share, of_images in ((self.dice, dice_losses), (self.lovasz, lovasz_losses)):
            if share:
                each = of_images(shares, truth, counted) * weight
                loss += share * jnp.sum(each) / jnp.maximum(jnp.sum(weight), 1e-12)
        hits = (jnp.argmax(logits, axis=-1) == truth).astype(jnp.float32)
        return loss, {"pixel_accuracy": mean(hits, counted, "mean_pixels")}
