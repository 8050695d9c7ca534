"""Depth estimation: the scale-invariant error of log depth, and the difference of its gradients at several scales.

Each image has its own loss over its pixels of known depth, so that slices of a batch and devices agree. DINOv2's code
takes the first loss over all pixels of a batch.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdino.models.heads.maps import resized

STRIDES = (1, 2, 4, 8)
"""Pixels between the neighbours that the gradient loss compares."""
EPS = 1e-8  # inside of the square root: its slope at 0 is not finite


@dataclasses.dataclass(frozen=True)
class Depth:
    """The losses of depth.

    Attributes:
      min_depth, max_depth: metres; other depths are not learned.
      silog_lambda, gradient_weight: see `depth_settings.Ranging`.
    """

    min_depth: float
    max_depth: float
    silog_lambda: float = 0.85
    gradient_weight: float = 0.5
    measures: ClassVar[tuple[str, ...]] = ("silog_loss", "gradient_loss", "abs_rel")

    def known(self, depth: jax.Array) -> jax.Array:
        """Return 1 where a depth (B, H, W) is learned, float32."""
        return ((depth >= self.min_depth) & (depth <= self.max_depth)).astype(jnp.float32)

    def targets(self, moving: dict, frozen: dict, parts: dict) -> tuple[dict, dict, dict]:
        """Add the share of the images with a known depth, by weight, so that slices weigh by their images."""
        has = jnp.any(self.known(parts["depth"]) > 0, axis=(-2, -1)) * parts["weight"]
        share = jnp.sum(has) / jnp.maximum(jnp.sum(parts["weight"]), 1e-12)
        return parts | {"known_share": jnp.broadcast_to(share, parts["weight"].shape)}, {}, {}

    def loss(self, model: Any, batch: dict[str, jax.Array], key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Compute the mean loss of the images with a known depth, each with its weight.

        Args:
          model: images -> output with the prediction "depth" (B, h, w) in metres, which is resized bilinearly.
          batch: image (B, H, W, C) float, normalised; depth (B, H, W) metres, 0 where unknown; weight (B,); for a slice
            of a batch, known_share from `targets`.

        Returns:
          (loss, its two parts and the mean relative error), scalars in float32; 0 if no depth is known.
        """
        truth, weight = batch["depth"].astype(jnp.float32), batch["weight"].astype(jnp.float32)
        found = model(batch["image"], key=key).predictions["depth"][..., None]
        found = resized(found, truth.shape[1:])[..., 0]
        known = self.known(truth)
        has = jnp.any(known > 0, axis=(1, 2)) * weight
        total = jnp.sum(has)
        if "known_share" in batch:
            total = batch["known_share"][0] * jnp.sum(weight)

        def mean(values: jax.Array) -> jax.Array:
            return jnp.sum(values * has) / jnp.maximum(total, 1e-12)

        difference = log_difference(found, truth, known, self.min_depth)
        silog = mean(silog_loss(difference, known, self.silog_lambda))
        gradient = mean(gradient_loss(difference, known)) if self.gradient_weight else jnp.zeros(())
        relative = jnp.abs(found - truth) / jnp.where(known > 0, truth, 1.0) * known
        relative = mean(jnp.sum(relative, axis=(1, 2)) / jnp.maximum(jnp.sum(known, axis=(1, 2)), 1))
        loss = silog + self.gradient_weight * gradient
        return loss, {"silog_loss": silog, "gradient_loss": gradient, "abs_rel": relative}


def log_difference(found: jax.Array, truth: jax.Array, known: jax.Array, least: float) -> jax.Array:
    """Return log found - log true depth, 0 where it is not known; found depths count as `least` or more."""
    return (jnp.log(jnp.maximum(found, least)) - jnp.log(jnp.where(known > 0, truth, 1.0))) * known


def silog_loss(difference: jax.Array, known: jax.Array, share: float) -> jax.Array:
    """Return sqrt(mean d^2 - share (mean d)^2) over the known pixels of each image: (B, H, W) -> (B,).

    Source: Eigen et al. 2014 (arXiv:1406.2283), equation 4; the root as in AdaBins (arXiv:2011.14141), equation 8,
    and DINOv2's dinov2/eval/depth/models/losses/sigloss.py, whose 0.15 is 1 - share.
    """
    count = jnp.maximum(jnp.sum(known, axis=(1, 2)), 1)
    square, mean = jnp.sum(difference**2, axis=(1, 2)) / count, jnp.sum(difference, axis=(1, 2)) / count
    return jnp.sqrt(jnp.maximum(square - share * mean**2, 0) + EPS)


def gradient_loss(difference: jax.Array, known: jax.Array) -> jax.Array:
    """Return the sum over scales of the mean absolute slope of the log difference: (B, H, W) -> (B,).

    At each scale every 1st, 2nd, 4th and 8th pixel is taken; a slope counts if both of its pixels are known, and the
    sum is divided by the number of known pixels at that scale.

    Source: Li and Snavely 2018 (arXiv:1804.00607), MegaDepth, equation 3.
    """
    total = jnp.zeros(len(difference))
    for stride in STRIDES:
        d, m = difference[:, ::stride, ::stride], known[:, ::stride, ::stride]
        down = jnp.abs(d[:, 1:] - d[:, :-1]) * m[:, 1:] * m[:, :-1]
        across = jnp.abs(d[:, :, 1:] - d[:, :, :-1]) * m[:, :, 1:] * m[:, :, :-1]
        slopes = jnp.sum(down, axis=(1, 2)) + jnp.sum(across, axis=(1, 2))
        total = total + slopes / jnp.maximum(jnp.sum(m, axis=(1, 2)), 1)
    return total
