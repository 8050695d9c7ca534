"""A backbone with an optional linear classification head."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.layers import Linear
from jaxdino.models.output import Output

POOLS = {
    "cls": lambda out: out.cls,
    "mean": lambda out: out.patches.mean(axis=(1, 2)),
    "cls_mean": lambda out: jnp.concatenate([out.cls, out.patches.mean(axis=(1, 2))], axis=-1),
}
"""What the head sees: the class token, the mean patch, or both side by side (DINOv2's linear head)."""


class Classifier(nnx.Module):
    """`backbone` and, for num_classes > 0, a linear `head` over one of `POOLS`.

    The head starts at small random weights (std 0.02) and zero bias; its logits are float32.
    """

    def __init__(self, backbone: nnx.Module, width: int, num_classes: int, pool: str, rngs: nnx.Rngs):
        if pool not in POOLS:
            raise UserError(f"pool {pool!r} is not known; {did_you_mean(pool, POOLS)}")
        self.backbone = backbone
        self.pool = pool
        self.head = Linear(width * (2 if pool == "cls_mean" else 1), num_classes, rngs=rngs) if num_classes else None

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> Output:
        """images (B, H, W, C) float normalised -> Output with logits (B, classes) float32, or None without a head."""
        out = self.backbone(images, mask=mask, key=key)
        return dataclasses.replace(out, logits=self.classify(out))

    def classify(self, out: Output) -> jax.Array | None:
        """The head's logits (B, classes) float32 for a backbone's output; None without a head."""
        return None if self.head is None else self.head(POOLS[self.pool](out).astype(jnp.float32))
