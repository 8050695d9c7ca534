"""Heads that give the depth of each pixel: bins on a linear layer, and the DPT decoder.

Sources: facebookresearch/dinov2 dinov2/hub/depth/decode_heads.py (BNHead, DPTHead) and depthers.py; Bhat et al. 2021
(arXiv:2011.14141), AdaBins, for a depth that is a mean of bins; Ranftl et al. 2021 (arXiv:2103.13413), DPT.
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
from jaxdino.models.heads.dpt import Decoder
from jaxdino.models.heads.maps import (
    BLOCKS,
    LEVELS,
    STAGES,
    Conv,
    as_blocks,
    check_levels,
    count,
    read,
    resized,
    widths_of,
)
from jaxdino.models.layers import Linear
from jaxdino.models.output import Output

EPS = 0.1  # added to each bin's activation, so that their sum is never 0
UPSAMPLE = 4  # the linear head predicts at 4 times the resolution of the patches
OUTPUTS = ("sigmoid", "relu")
INNER = 32  # channels before the last layer of the DPT head


@dataclasses.dataclass(frozen=True)
class _Depth:
    """What both heads share; see `heads.HeadConfig`.

    Attributes:
      num_classes: 1, a depth for each pixel; with 0 no head is built.
      blocks: of a ViT, the blocks whose patch tokens the head reads: the last `blocks`, or indices from 0.
      source: "blocks", or "stages": the feature maps of a hierarchical network.
      min_depth, max_depth: metres.
      norm: whether a ViT's final norm is applied to its blocks; DINOv2's published heads were trained without.
    """

    num_classes: int = 0
    blocks: int | tuple[int, ...] = 1
    source: str = BLOCKS
    min_depth: float = 0.001
    max_depth: float = 10.0
    norm: bool = True
    of: ClassVar[str] = "depth"

    def __post_init__(self):
        object.__setattr__(self, "blocks", as_blocks(self.blocks))
        check_choice("source", self.source, (BLOCKS, STAGES))
        check_range("num_classes", self.num_classes, "[0, 1]")
        check_range("min_depth", self.min_depth, "(0, inf)")
        if not self.min_depth < self.max_depth < math.inf:
            raise UserError(f"max_depth={self.max_depth} must be finite and above min_depth={self.min_depth}")

    @property
    def choice(self) -> None:
        """None: the head gives depths, not classes."""
        return None

    def continued(self, before: Any) -> Any:
        """Return this head with the range of one that was trained: its outputs mean these depths."""
        return dataclasses.replace(self, min_depth=before.min_depth, max_depth=before.max_depth, norm=before.norm)


@dataclasses.dataclass(frozen=True)
class DepthLinearHeadConfig(_Depth):
    """A linear layer on the patch tokens and the class token, to the weights of bins of depth; see `_Depth`.

    Attributes:
      bins: number of depths, evenly spaced from min_depth to max_depth; the depth of a pixel is their weighted mean.
    """

    bins: int = 256
    name: ClassVar[str] = "depth_linear"

    def __post_init__(self):
        super().__post_init__()
        check_range("bins", self.bins, "[2, inf)")

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> "DepthLinearHead":
        """Build the head with a small random kernel (std 0.01) and zero bias."""
        return DepthLinearHead(self, width, rngs)

    def continued(self, before: Any) -> Any:
        """Return this head with the bins of one that was trained."""
        return dataclasses.replace(super().continued(before), bins=before.bins)


@dataclasses.dataclass(frozen=True)
class DepthDPTHeadConfig(_Depth):
    """The DPT decoder, with one output for each pixel; see `_Depth`.

    Attributes:
      blocks: four blocks of a ViT; 1 with stages.
      width: channels of the decoder.
      output: how a number becomes metres: "sigmoid", between min_depth and max_depth; "relu", min_depth and what is
        above it, as in DINOv2's published heads.
      readout: whether the class token is joined to the patch tokens; of a ViT only.
    """

    width: int = 256
    output: str = "sigmoid"
    readout: bool = True
    name: ClassVar[str] = "depth_dpt"

    def __post_init__(self):
        super().__post_init__()
        check_levels(self.source, self.blocks)
        check_choice("output", self.output, OUTPUTS)
        check_range("width", self.width, "[2, inf)")

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> "DepthDPTHead":
        """Build the head with random kernels."""
        return DepthDPTHead(self, width, rngs)

    def continued(self, before: Any) -> Any:
        """Return this head with the shape of one that was trained."""
        kept = dict(width=before.width, output=before.output, readout=before.readout)
        return dataclasses.replace(super().continued(before), **kept)


DepthHeadConfig = DepthLinearHeadConfig | DepthDPTHeadConfig


class DepthLinearHead(nnx.Module):
    """One linear layer on concatenated features, computed for each map alone and added up; in float32."""

    def __init__(self, cfg: DepthLinearHeadConfig, width: int, rngs: nnx.Rngs):
        levels = LEVELS if cfg.source == STAGES else count(cfg.blocks)
        self.widths = widths_of(width, cfg.source, levels)
        tokens = width if cfg.source == STAGES else width * levels
        self.conv_depth = Linear(sum(self.widths) + tokens, cfg.bins, std=0.01, rngs=rngs)
        self.cfg = cfg

    def __call__(self, outs: Sequence[Output], key: jax.Array | None = None) -> dict[str, jax.Array]:
        """Map a backbone's outputs to {"depth": (B, h, w) metres, float32}, at `UPSAMPLE` times the finest map.

        Source: BNHead with input_transform="resize_concat"; the features are each block's patch tokens, then its class
        token. A linear layer and a resize may change places, so the bins are resized, not the features.
        """
        kernel, bias, cfg = self.conv_depth.kernel[...], jnp.asarray(self.conv_depth.offset), self.cfg
        maps, at, found = read(outs, cfg.source, self.widths), 0, []
        tokens = [out.cls.astype(jnp.float32) for out in outs]
        for level, x in enumerate(maps):
            part = x @ kernel[at : at + x.shape[-1]]
            at += x.shape[-1]
            if level >= len(maps) - len(tokens):
                token = tokens[level - len(maps) + len(tokens)]
                part = part + (token @ kernel[at : at + token.shape[-1]])[:, None, None]
                at += token.shape[-1]
            found.append(part)
        height, width = found[0].shape[1:3]
        size = (UPSAMPLE * height, UPSAMPLE * width) if cfg.source == BLOCKS else (height, width)
        logits = sum(resized(part, size) for part in found[1:]) + resized(found[0], size) + bias[None, None, None]
        shares = jax.nn.relu(logits) + EPS
        bins = jnp.linspace(cfg.min_depth, cfg.max_depth, cfg.bins)
        return {"depth": (shares @ bins) / jnp.sum(shares, axis=-1)}


class DepthDPTHead(nnx.Module):
    """The DPT decoder `decoder` and three convolutions `conv_depth`; computed in float32."""

    def __init__(self, cfg: DepthDPTHeadConfig, width: int, rngs: nnx.Rngs):
        self.decoder = Decoder(width, cfg.source, cfg.width, cfg.readout, rngs)
        half = cfg.width // 2
        self.conv_depth = nnx.List([Conv(cfg.width, half, rngs), Conv(half, INNER, rngs)])
        self.out = Linear(INNER, 1, std=math.sqrt(1 / INNER), rngs=rngs)
        self.cfg = cfg

    def __call__(self, outs: Sequence[Output], key: jax.Array | None = None) -> dict[str, jax.Array]:
        """Map a backbone's outputs to {"depth": (B, h, w) metres, float32}."""
        cfg, x = self.cfg, self.conv_depth[0](self.decoder(outs))
        x = resized(x, (2 * x.shape[1], 2 * x.shape[2]), corners=True)
        x = self.out(jax.nn.relu(self.conv_depth[1](x)))[..., 0]
        if cfg.output == "relu":
            return {"depth": jax.nn.relu(x) + cfg.min_depth}
        return {"depth": cfg.min_depth + (cfg.max_depth - cfg.min_depth) * jax.nn.sigmoid(x)}
