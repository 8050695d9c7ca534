"""Decoders that give every pixel a class, on four feature maps: SegFormer's layers, a feature pyramid, and DPT's.

Sources: Xie et al. 2021 (arXiv:2105.15203), SegFormer, section 3.2; Ranftl et al. 2021 (arXiv:2103.13413), DPT.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice, check_range
from jaxdino.models.batch_norm import BatchNorm
from jaxdino.models.heads.dpt import Decoder
from jaxdino.models.heads.fcos import GROUPS
from jaxdino.models.heads.maps import BLOCKS, LEVELS, STAGES, as_blocks, check_levels, read, resized, widths_of
from jaxdino.models.heads.mask_decoder import PixelDecoder
from jaxdino.models.heads.simple_pyramid import SimplePyramid
from jaxdino.models.layers import Linear, linear
from jaxdino.models.output import Output


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """What the decoders share; see `heads.HeadConfig`.

    Attributes:
      blocks: four blocks of a ViT, by their indices; 1 with stages.
      source: "blocks", or "stages": the feature maps of a hierarchical network.
      width: channels of the decoder. dropout: share of its channels that is dropped in training.
    """

    num_classes: int = 0
    blocks: int | tuple[int, ...] = LEVELS
    source: str = BLOCKS
    width: int = 128
    dropout: float = 0.0
    of: ClassVar[str] = "patch"

    def __post_init__(self):
        object.__setattr__(self, "blocks", as_blocks(self.blocks))
        check_levels(self.source, self.blocks)
        check_range("num_classes", self.num_classes, "[0, inf)")
        check_range("width", self.width, "[1, inf)")
        check_range("dropout", self.dropout, "[0, 1)")

    @property
    def choice(self) -> None:
        """None: the head gives every pixel a class, not the image."""
        return None

    def continued(self, before: Any) -> Any:
        """Return this head with the width of one that was trained."""
        return dataclasses.replace(self, width=before.width)


@dataclasses.dataclass(frozen=True)
class MLPHeadConfig(_Decoder):
    """A linear layer on each map, all at the resolution of the finest, then two more on all of them; see `_Decoder`."""

    name: ClassVar[str] = "mlp"

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> "MLPHead":
        """Build the head with random kernels."""
        return MLPHead(self, width, rngs)


@dataclasses.dataclass(frozen=True)
class DPTHeadConfig(_Decoder):
    """The DPT decoder, and a linear layer to the classes; see `_Decoder`.

    Attributes:
      readout: whether the class token is joined to the patch tokens; of a ViT only.
    """

    readout: bool = True
    name: ClassVar[str] = "dpt"

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> "DPTHead":
        """Build the head with random kernels."""
        return DPTHead(self, width, rngs)

    def continued(self, before: Any) -> Any:
        """Return this head with the shape of one that was trained."""
        return dataclasses.replace(self, width=before.width, readout=before.readout)


@dataclasses.dataclass(frozen=True)
class FPNHeadConfig(_Decoder):
    """A feature pyramid, whose levels are added at the finest resolution; see `_Decoder`.

    Attributes:
      blocks: 1; of a ViT, the last block, whose patch tokens become maps at 4, 2, 1 and 1/2 times their resolution.
      width: a multiple of 8.
    """

    blocks: int = 1
    name: ClassVar[str] = "fpn"

    def __post_init__(self):
        check_choice("source", self.source, (BLOCKS, STAGES))
        check_range("blocks", self.blocks, "[1, 1]")
        check_range("num_classes", self.num_classes, "[0, inf)")
        check_range("dropout", self.dropout, "[0, 1)")
        if self.width < GROUPS or self.width % GROUPS:
            raise UserError(f"width={self.width} of a feature pyramid must be a multiple of {GROUPS}")

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> "FPNHead":
        """Build the head with random kernels."""
        return FPNHead(self, width, rngs)


class MLPHead(nnx.Module):
    """Linear layers `linear`, one `fuse` with batch norm `bn` and ReLU, and `conv_seg`; computed in float32."""

    def __init__(self, cfg: MLPHeadConfig, width: int, rngs: nnx.Rngs):
        self.widths = widths_of(width, cfg.source)
        self.linear = nnx.List([Linear(one, cfg.width, std=math.sqrt(1 / one), rngs=rngs) for one in self.widths])
        self.fuse = Linear(LEVELS * cfg.width, cfg.width, use_bias=False, std=math.sqrt(1 / cfg.width), rngs=rngs)
        self.bn = BatchNorm(cfg.width)
        self.conv_seg = Linear(cfg.width, cfg.num_classes, std=0.01, rngs=rngs)
        self.cfg = cfg

    def __call__(self, outs: Sequence[Output], key: jax.Array | None = None) -> dict[str, jax.Array]:
        """Map a backbone's outputs to {"logits": (B, h, w, classes) float32}. With a key, dropout is active."""
        maps = [layer(x) for layer, x in zip(self.linear, read(outs, self.cfg.source, self.widths), strict=True)]
        x = jax.nn.relu(self.bn(self.fused(maps)))
        return {"logits": self.conv_seg(dropped(x, self.cfg.dropout, key))}

    def fused(self, maps: Sequence[jax.Array]) -> jax.Array:
        """Return `fuse` of all maps at the resolution of the finest.

        Each map is multiplied by its rows of the kernel while it is small, and resized after that: a resize mixes
        places, a linear layer channels, so their order makes no difference.
        """
        size = maps[0].shape[1:3]
        if self.fuse.lora is not None:  # its adapter is of the whole kernel
            return self.fuse(jnp.concatenate([resized(one, size) for one in maps], axis=-1))
        kernels = jnp.split(self.fuse.kernel[...], LEVELS)
        first, *others = (resized(linear(x, one, None), size) for x, one in zip(maps, kernels, strict=True))
        return sum(others, start=first)


class FPNHead(nnx.Module):
    """The pyramid `pixels`, on `simple`'s maps of a ViT, and `conv_seg` on the sum of its levels; in float32.

    Source: Kirillov et al. 2019, Panoptic FPN (arXiv:1901.02446), section 3.1, with one resize in place of several
    stages.
    """

    def __init__(self, cfg: FPNHeadConfig, width: int, rngs: nnx.Rngs):
        self.simple = SimplePyramid(width, rngs) if cfg.source == BLOCKS else None
        self.widths = self.simple.widths if self.simple is not None else widths_of(width, STAGES)
        self.pixels = PixelDecoder(self.widths, cfg.width, rngs)
        self.conv_seg = Linear(cfg.width, cfg.num_classes, std=0.01, rngs=rngs)
        self.cfg = cfg

    def __call__(self, outs: Sequence[Output], key: jax.Array | None = None) -> dict[str, jax.Array]:
        """Map a backbone's outputs to {"logits": (B, h, w, classes) float32}. With a key, dropout is active."""
        if self.simple is not None:
            maps = self.simple(outs[-1].patches.astype(jnp.float32))
        else:
            maps = read(outs, STAGES, self.widths)
        levels = self.pixels(maps)
        x = sum((resized(one, levels[0].shape[1:3]) for one in levels[1:]), levels[0])
        return {"logits": self.conv_seg(dropped(x, self.cfg.dropout, key))}


class DPTHead(nnx.Module):
    """The DPT decoder `decoder`, and `conv_seg`; computed in float32."""

    def __init__(self, cfg: DPTHeadConfig, width: int, rngs: nnx.Rngs):
        self.decoder = Decoder(width, cfg.source, cfg.width, cfg.readout, rngs)
        self.conv_seg = Linear(cfg.width, cfg.num_classes, std=0.01, rngs=rngs)
        self.cfg = cfg

    def __call__(self, outs: Sequence[Output], key: jax.Array | None = None) -> dict[str, jax.Array]:
        """Map a backbone's outputs to {"logits": (B, h, w, classes) float32}. With a key, dropout is active."""
        return {"logits": self.conv_seg(dropped(self.decoder(outs), self.cfg.dropout, key))}


def dropped(x_BxhxwxD: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Drop whole channels of each image with probability `rate`; the others grow. Nothing without a key."""
    if key is None or not rate:
        return x_BxhxwxD
    kept = jax.random.bernoulli(key, 1 - rate, (x_BxhxwxD.shape[0], 1, 1, x_BxhxwxD.shape[-1]))
    return jnp.where(kept, x_BxhxwxD / (1 - rate), 0)
