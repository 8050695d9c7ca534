"""A backbone with an optional linear classification head."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.layers import Linear
from jaxdino.models.output import Output


@dataclasses.dataclass(frozen=True)
class Pool:
    """The input features of a classification head.

    Attributes:
      features: maps the outputs of the last `blocks` blocks, in order, to (B, widths x D).
    """

    features: Callable[[list[Output]], jax.Array]
    widths: int = 1
    blocks: int = 1


def _mean(outs: list[Output]) -> jax.Array:
    return outs[-1].patches.mean(axis=(1, 2))


def _cls_mean(outs: list[Output]) -> jax.Array:
    return jnp.concatenate([*(out.cls for out in outs), _mean(outs)], axis=-1)


POOLS = {
    "cls": Pool(lambda outs: outs[-1].cls),
    "mean": Pool(_mean),
    "cls_mean": Pool(_cls_mean, widths=2),
    "cls4_mean": Pool(_cls_mean, widths=5, blocks=4),
}
"""Input of the head: the class token, the mean patch, both side by side (DINOv2's and DINOv3's linear head), or the
class tokens of the last four blocks and the mean patch (DINOv2's linear head of four layers).

Source of the last two: facebookresearch/dinov2 hub/classifiers.py.
"""


def pool_named(name: str) -> Pool:
    """Return one of `POOLS`. Raise UserError with the nearest names if it does not exist."""
    if name not in POOLS:
        raise UserError(f"pool {name!r} is not known; {did_you_mean(name, POOLS)}")
    return POOLS[name]


class Classifier(nnx.Module):
    """A `backbone` and, for num_classes > 0, a linear `head` on one of `POOLS`.

    The head is initialised with small random weights (std 0.02) and zero bias; its logits are float32.
    """

    def __init__(self, backbone: Any, width: int, num_classes: int, pool: str, rngs: nnx.Rngs):
        known = pool_named(pool)
        if known.blocks > 1 and not hasattr(backbone, "cls_token"):
            raise UserError(f"pool {pool!r} uses the class token of several blocks, which this model does not have")
        self.backbone = backbone
        self.pool = pool
        self.head = Linear(width * known.widths, num_classes, rngs=rngs) if num_classes else None

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> Output:
        """Map normalised float images (B, H, W, C) to Output; logits (B, classes) float32, None without a head."""
        if self.head is None:
            return self.backbone(images, mask=mask, key=key)
        pool = POOLS[self.pool]
        if pool.blocks == 1:
            outs = [self.backbone(images, mask=mask, key=key)]
        else:
            outs = self.backbone.intermediate_layers(images, pool.blocks, mask=mask, key=key)
        return dataclasses.replace(outs[-1], logits=self.head(pool.features(outs).astype(jnp.float32)))
