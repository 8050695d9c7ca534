"""The decoder of dense prediction transformers: four feature maps, made into a pyramid, fused from coarse to fine.

Sources: Ranftl et al. 2021 (arXiv:2103.13413), DPT; facebookresearch/dinov2 dinov2/hub/depth/decode_heads.py (DPTHead),
whose names and order of operations these modules have.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.models.heads.maps import BLOCKS, LEVELS, Conv, Enlarge, read, resized, widths_of
from jaxdino.models.layers import Linear
from jaxdino.models.output import Output


class Reassemble(nnx.Module):
    """Four maps of patch tokens -> maps at 4, 2, 1 and 1/2 times their resolution, of the given channels."""

    def __init__(self, width: int, channels: Sequence[int], readout: bool, rngs: nnx.Rngs):
        self.projects = nnx.List([Linear(width, one, std=math.sqrt(1 / width), rngs=rngs) for one in channels])
        self.enlarge4 = Enlarge(channels[0], channels[0], 4, rngs)
        self.enlarge2 = Enlarge(channels[1], channels[1], 2, rngs)
        self.reduce = Conv(channels[3], channels[3], rngs, stride=2)
        if readout:
            std = math.sqrt(1 / (2 * width))
            self.readout_projects = nnx.List([Linear(2 * width, width, std=std, rngs=rngs) for _ in channels])
        self.readout = readout

    def __call__(self, maps: Sequence[jax.Array], tokens: Sequence[jax.Array]) -> list[jax.Array]:
        """Map (B, h, w, D) of each block, and its class token (B, D), to the levels, finest first."""
        found = []
        for level, (x, token) in enumerate(zip(maps, tokens, strict=True)):
            if self.readout:
                both = jnp.concatenate([x, jnp.broadcast_to(token[:, None, None], x.shape)], axis=-1)
                x = jax.nn.gelu(self.readout_projects[level](both), approximate=False)
            x = self.projects[level](x)
            found.append((self.enlarge4, self.enlarge2, lambda x: x, self.reduce)[level](x))
        return found


class Unit(nnx.Module):
    """Two convolutions after ReLU, added to their input."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.conv1, self.conv2 = Conv(width, width, rngs, bias=False), Conv(width, width, rngs, bias=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.conv2(jax.nn.relu(self.conv1(jax.nn.relu(x))))


class Fusion(nnx.Module):
    """Add a finer map to what came before, and double the resolution."""

    def __init__(self, width: int, first: bool, rngs: nnx.Rngs):
        self.project = Linear(width, width, std=math.sqrt(1 / width), rngs=rngs)
        self.res_conv_unit1 = None if first else Unit(width, rngs)
        self.res_conv_unit2 = Unit(width, rngs)

    def __call__(self, x: jax.Array, finer: jax.Array | None = None) -> jax.Array:
        if self.res_conv_unit1 is not None and finer is not None:
            x = x + self.res_conv_unit1(resized(finer, x.shape[1:3]))
        x = self.res_conv_unit2(x)
        return self.project(resized(x, (2 * x.shape[1], 2 * x.shape[2]), corners=True))


class Decoder(nnx.Module):
    """Feature maps -> one map (B, h, w, width) at 8 times the resolution of patches, or at half that of the image.

    Args:
      width: channels of the backbone's last map. source: see `maps.read`; stages are a pyramid already.
      channels: of the result. readout: whether the class token is added to the patches.
    """

    def __init__(self, width: int, source: str, channels: int, readout: bool, rngs: nnx.Rngs):
        self.widths = widths_of(width, source)
        own = self.widths
        if source == BLOCKS:
            own = [max(1, width // 2**level) for level in reversed(range(LEVELS))]
            self.reassemble_blocks = Reassemble(width, own, readout, rngs)
        self.convs = nnx.List([Conv(one, channels, rngs, bias=False) for one in own])
        self.fusion_blocks = nnx.List([Fusion(channels, level == 0, rngs) for level in range(LEVELS)])
        self.project = Conv(channels, channels, rngs)
        self.source = source

    def __call__(self, outs: Sequence[Output]) -> jax.Array:
        maps = read(outs, self.source, self.widths)
        if self.source == BLOCKS:
            maps = self.reassemble_blocks(maps, [out.cls.astype(jnp.float32) for out in outs])
        maps = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        x = self.fusion_blocks[0](maps[-1])
        for block, finer in zip(self.fusion_blocks[1:], maps[-2::-1], strict=True):
            x = block(x, finer)
        return jax.nn.relu(self.project(x))
