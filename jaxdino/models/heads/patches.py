"""The linear segmentation head on patch features: batch norm, then a 1 x 1 convolution to the classes.

Sources: facebookresearch/dinov2 eval/segmentation/models/decode_heads/linear_head.py (BNHead, on mmsegmentation's
BaseDecodeHead); facebookresearch/dinov3 eval/segmentation/models/heads/linear_head.py (LinearHead).
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.models.batch_norm import BatchNorm
from jaxdino.models.heads.maps import BLOCKS, STAGES, read, resized, widths_of
from jaxdino.models.layers import Linear
from jaxdino.models.output import Output


@dataclasses.dataclass(frozen=True)
class PatchesHeadConfig:
    """The shape of a linear segmentation head; see `heads.HeadConfig`.

    The published heads read the last block (DINOv2 "linear", DINOv3) or the last four (DINOv2 "ms"); DINOv3's code can
    also read four blocks at even intervals, whose indices are given as a tuple.

    Attributes:
      blocks: the blocks whose patch tokens are concatenated, after the final norm: the last `blocks`, or indices from
        0, the last block last.
      dropout: share of the features that is dropped in training, whole feature maps before the batch norm. DINOv2's
        heads were trained with 0, DINOv3's with 0.1.
      stages: of a hierarchical network, the number of last feature maps, resized to the finest and concatenated; 0: the
        last one alone.
    """

    num_classes: int = 0
    blocks: int | tuple[int, ...] = 1
    dropout: float = 0.0
    stages: int = 0
    name: ClassVar[str] = "patches"
    of: ClassVar[str] = "patch"

    def __post_init__(self):
        if isinstance(self.blocks, list):  # from JSON or a config
            object.__setattr__(self, "blocks", tuple(self.blocks))
        indices = self.blocks if isinstance(self.blocks, tuple) else (self.blocks,)
        if not indices or any(type(n) is not int for n in indices) or list(indices) != sorted({*indices}):
            raise UserError(f"blocks={self.blocks!r} of a head is a number of blocks, or their indices in order")
        check_range("blocks", self.blocks, "[0, inf)" if isinstance(self.blocks, tuple) else "[1, inf)")
        check_range("num_classes", self.num_classes, "[0, inf)")
        check_range("dropout", self.dropout, "[0, 1)")
        check_range("stages", self.stages, "[0, inf)")

    @property
    def widths(self) -> int:
        """Width of the input, in widths of the backbone, of patch tokens."""
        return len(self.blocks) if isinstance(self.blocks, tuple) else self.blocks

    def maps(self, width: int) -> list[int]:
        """Return the channels of each map that is read, given the width of the backbone."""
        return widths_of(width, STAGES, self.stages) if self.stages else [width] * self.widths

    @property
    def choice(self) -> None:
        """None: the head gives every patch a class, not the image."""
        return None

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> "PatchesHead":
        """Build the head with a small random kernel (std 0.01, as in both sources) and zero bias."""
        return PatchesHead(self, width, rngs)


class PatchesHead(nnx.Module):
    """Batch norm `bn` and 1 x 1 convolution `conv_seg`, a linear layer on each place; computed in float32."""

    def __init__(self, cfg: PatchesHeadConfig, width: int, rngs: nnx.Rngs):
        self.maps = cfg.maps(width)
        self.bn = BatchNorm(sum(self.maps))
        self.conv_seg = Linear(sum(self.maps), cfg.num_classes, std=0.01, rngs=rngs)
        self.cfg = cfg

    def __call__(self, outs: Sequence[Output], key: jax.Array | None = None) -> dict[str, jax.Array]:
        """Map a backbone's outputs to {"logits": (B, h, w, classes) float32}. With a key, dropout is active."""
        maps = read(outs, STAGES if self.cfg.stages else BLOCKS, self.maps)
        x_BxhxwxD = jnp.concatenate([resized(one, maps[0].shape[1:3]) for one in maps], axis=-1)
        if key is not None and self.cfg.dropout:
            share = 1 - self.cfg.dropout
            kept = jax.random.bernoulli(key, share, (x_BxhxwxD.shape[0], 1, 1, x_BxhxwxD.shape[-1]))
            x_BxhxwxD = jnp.where(kept, x_BxhxwxD / share, 0)
        return {"logits": self.conv_seg(self.bn(x_BxhxwxD))}
