"""A backbone and the heads on it: the module of every model that is trained, saved and converted."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.models.heads import Blocks, NamedHeads
from jaxdino.models.output import Output, chosen

KEY = 1 << 20
"""Number of the head's random key; those of blocks are their indices."""


class Network(nnx.Module):
    """A `backbone` with heads on it, each under its own name (see `jaxdino.models.heads`).

    A call returns the predictions of `head`, if there is one; the other heads are called by the objective.
    """

    head: Any = None

    def __init__(self, backbone: Any, width: int, heads: NamedHeads, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32):
        self.backbone = backbone
        for name, one in heads:
            setattr(self, name, one.build(width, rngs, dtype=dtype))
        self.blocks = dict(heads)["head"].blocks if self.head else 1
        self.norm = getattr(dict(heads)["head"], "norm", True) if self.head else True
        if self.blocks != 1 or not self.norm:
            _check_blocks(backbone, self.blocks)

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> Output:
        """Map normalised float images (B, H, W, C) to Output, with the head's predictions if there is one.

        With a key, stochastic depth and dropout are active.
        """
        if self.head is None:
            return self.backbone(images, mask=mask, key=key)
        if hasattr(self.head, "inside"):  # tokens of its own pass through the backbone's last blocks
            return self.head.inside(self.backbone, images, key)
        if self.blocks == 1 and self.norm:
            outs = [self.backbone(images, mask=mask, key=key)]
        else:
            outs = self.backbone.intermediate_layers(images, self.blocks, mask=mask, key=key, norm=self.norm)
        own = None if key is None else jax.random.fold_in(key, KEY)
        return dataclasses.replace(outs[-1], predictions=self.head(outs, own))


def _check_blocks(backbone: Any, blocks: Blocks) -> None:
    """Raise UserError unless the backbone has blocks of one width and grid, and indices exist and end with the last."""
    if not hasattr(backbone, "cls_token"):
        raise UserError(f"the head reads the outputs of several blocks ({blocks}), which only vision transformers have")
    if isinstance(blocks, tuple) and chosen(blocks, depth := backbone.cfg.depth, "blocks")[-1] != depth - 1:
        raise UserError(f"the blocks of the head, {blocks}, must end with the last block, {depth - 1}")
