"""ResNets as in torchvision (the stride is in the 3 x 3 convolution), and DINO's ResNet-50."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.models.batch_norm import BatchNorm, checkpointed
from jaxdino.models.conv import conv
from jaxdino.models.initial import normal
from jaxdino.models.layer_spec import Layer
from jaxdino.models.layers import drop_path, linear
from jaxdino.models.max_pool import max_pool
from jaxdino.models.output import Output, chosen
from jaxdino.models.remat import Remat

FEW_PIXELS = 4  # up to this many output pixels, one matmul on CPU is much faster (docs/performance.md)


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """The shape of a ResNet.

    Attributes:
      bottleneck: whether blocks have three convolutions (1, 3, 1) instead of two (3, 3).
      depths, widths: blocks and output channels of each stage.
      reduction: ratio of a bottleneck's output width to the width of its 3 x 3 convolution; 1 without bottlenecks.
      stem: channels of the first convolution.
      counts: whether the checkpoint has torch's `num_batches_tracked`.
    """

    bottleneck: bool = True
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    reduction: int = 4
    stem: int = 64
    in_channels: int = 3
    counts: bool = True
    input_kernel: ClassVar[str] = "backbone.conv1.kernel"

    @property
    def width(self) -> int:
        """Width of the last stage, the input of a head."""
        return self.widths[-1]

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """(stage, block) of each block; stages are counted from 1, as in the names layer1, layer2, ..."""
        return [(s, i) for s, depth in enumerate(self.depths, 1) for i in range(depth)]

    def sizes(self, stage: int, block: int) -> tuple[int, int, int]:
        """Return (input channels, output channels, stride) of a block."""
        width = self.widths[stage - 1]
        if block:
            return width, width, 1
        before = (self.stem, *self.widths)[stage - 1]
        return before, width, 1 if stage == 1 else 2

    def projects(self, stage: int, block: int) -> bool:
        """Return whether a block's shortcut needs a convolution: its input differs in size or channels."""
        before, width, stride = self.sizes(stage, block)
        return before != width or stride > 1

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The stem and each block; a ResNet has no final norm."""
        stem = Layer("stem", "stem", ("backbone.conv1", "backbone.bn1"))
        return (stem, *(Layer(f"layer{s}.{i}", "block", (f"backbone.layer{s}.{i}",)) for s, i in self.blocks))

    def places(self) -> list[dict[str, int]]:
        """Values: `{s}`, `{i}` stages (from 1) and blocks; `{t}` = s - 1; `{p}`, `{q}` = p - 1: projected shortcuts."""
        blocks = [{"s": s, "t": s - 1, "i": i} for s, i in self.blocks]
        return blocks + [{"p": s, "q": s - 1} for s, i in self.blocks if not i and self.projects(s, i)]

    def with_channels(self, channels: int) -> "ResNetConfig":
        """Return the configuration for images with this number of channels."""
        return dataclasses.replace(self, in_channels=channels)

    def build(self, **how) -> "ResNet":
        """Build the network with random parameters; `how` are arguments of `ResNet`."""
        return ResNet(self, **how)


class Conv(nnx.Module):
    """k x k convolution without bias, padded by k // 2 on every side as in torch; kernel (k, k, in, out)."""

    def __init__(self, n_in: int, n_out: int, side: int, stride: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(normal(rngs, (side, side, n_in, n_out), math.sqrt(2 / (side * side * n_out))))
        self.stride = stride

    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        kernel, step = self.kernel[...], self.stride
        side, _, n_in, n_out = kernel.shape
        if side == 1:  # one matmul: in half precision on CPU up to 6 x as fast as XLA's convolution
            return linear(x_BxHxWxC[:, ::step, ::step], kernel[0, 0], None)
        if math.prod(-(-size // step) for size in x_BxHxWxC.shape[1:3]) <= FEW_PIXELS:
            return linear(_windows(x_BxHxWxC, side, step), kernel.reshape(side * side * n_in, n_out), None)
        return conv(x_BxHxWxC, kernel, step)


def _windows(x_BxHxWxC: jax.Array, side: int, step: int) -> jax.Array:
    """Return the receptive field of each output pixel, zero-padded: (B, h, w, side * side * C)."""
    reach, (height, wide) = side // 2, x_BxHxWxC.shape[1:3]
    padded = jnp.pad(x_BxHxWxC, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    places = [(i, j) for i in range(side) for j in range(side)]
    return jnp.concatenate([padded[:, i : i + height : step, j : j + wide : step] for i, j in places], axis=-1)


class Block(nnx.Module):
    """Block: relu(shortcut(x) + branch(x)); the branch has convolutions with batch norms, and ReLU between them."""

    def __init__(self, cfg: ResNetConfig, stage: int, block: int, drop_rate: float, rngs: nnx.Rngs):
        before, width, stride = cfg.sizes(stage, block)
        narrow = width // cfg.reduction
        steps = [(before, width, 3, stride), (width, width, 3, 1)]
        if cfg.bottleneck:
            steps = [(before, narrow, 1, 1), (narrow, narrow, 3, stride), (narrow, width, 1, 1)]
        for n, (n_in, n_out, side, step) in enumerate(steps, 1):
            setattr(self, f"conv{n}", Conv(n_in, n_out, side, step, rngs))
            setattr(self, f"bn{n}", BatchNorm(n_out, count=cfg.counts))
        if cfg.projects(stage, block):
            norm = BatchNorm(width, count=cfg.counts)
            self.downsample = nnx.List([Conv(before, width, 1, stride, rngs), norm])
        else:
            self.downsample = None
        self.convolutions, self.drop_rate = len(steps), drop_rate

    def __call__(self, x_BxHxWxC: jax.Array, key: jax.Array | None) -> jax.Array:
        branch = x_BxHxWxC
        for n in range(1, self.convolutions + 1):
            branch = jax.nn.relu(branch) if n > 1 else branch
            branch = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(branch))
        shortcut = x_BxHxWxC
        if self.downsample is not None:
            conv, norm = self.downsample
            shortcut = norm(conv(x_BxHxWxC))
        rows = branch.reshape(branch.shape[0], -1, branch.shape[-1])
        return jax.nn.relu(shortcut + drop_path(rows, self.drop_rate, key).reshape(branch.shape))


class ResNet(nnx.Module):
    """A ResNet; see `ResNetConfig` for its shape and `Output` for its output.

    Sources: pytorch/vision torchvision/models/resnet.py; He et al. 2015 (arXiv:1512.03385). Batch norms are in
    evaluation mode unless `batch_norm.set_training` is called.
    """

    def __init__(
        self,
        cfg: ResNetConfig,
        *,
        rngs: nnx.Rngs,
        drop_path: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        attention: str = "xla",
        remat: Remat = False,
    ):
        self.conv1 = Conv(cfg.in_channels, cfg.stem, 7, 2, rngs)
        self.bn1 = BatchNorm(cfg.stem, count=cfg.counts)
        rates = [drop_path * n / max(len(cfg.blocks) - 1, 1) for n in range(len(cfg.blocks))]
        for s in range(1, len(cfg.depths) + 1):
            blocks = [
                Block(cfg, stage, i, rate, rngs)
                for (stage, i), rate in zip(cfg.blocks, rates, strict=True)
                if stage == s
            ]
            setattr(self, f"layer{s}", nnx.List(blocks))
        self.cfg, self.dtype, self.remat = cfg, dtype, remat

    def stem(self, images: jax.Array) -> jax.Array:
        """Map images (B, H, W, C) to (B, ceil(H / 4), ceil(W / 4), stem channels), after the max pool.

        Raises:
          UserError: if the number of channels differs from the network's.
        """
        if images.ndim != 4 or images.shape[-1] != self.cfg.in_channels:
            raise UserError(f"images of shape {images.shape} do not fit: give (B, H, W, {self.cfg.in_channels})")
        return max_pool(jax.nn.relu(self.bn1(self.conv1(images.astype(self.dtype)))))

    def stage_maps(self, images: jax.Array, key: jax.Array | None = None) -> list[jax.Array]:
        """Return the feature maps (B, h, w, D of the stage) of layer1, layer2, ..."""
        x, maps = self.stem(images), []
        for n, (s, i) in enumerate(self.cfg.blocks):
            block = getattr(self, f"layer{s}")[i]
            block_key = None if key is None else jax.random.fold_in(key, n)
            x = (checkpointed(block, self.remat) if self.remat else block)(x, block_key)
            if i == self.cfg.depths[s - 1] - 1:
                maps.append(x)
        return maps

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> Output:
        """Map normalised float images (B, H, W, C) of any size to Output. With a key, stochastic depth is active.

        Raises:
          UserError: if a mask is given, since a ResNet has no mask token, and as `stem`.
        """
        if mask is not None:
            raise UserError("a ResNet has no mask token: patches cannot be masked")
        maps = self.stage_maps(images, key)
        return dataclasses.replace(self.finish(maps[-1]), stages=tuple(maps))

    def finish(self, x: jax.Array) -> Output:
        """Return the last feature map (B, h, w, D) as an `Output`."""
        return _gather(x)

    def intermediate_layers(self, images: jax.Array, n: int | Sequence[int] = 1) -> list[Output]:
        """Return the outputs of the last `n` stages, or of the stages with the given indices from 0.

        Raises:
          UserError: if there are no such stages.
        """
        places, maps = chosen(n, len(self.cfg.depths), "stages"), self.stage_maps(images)
        return [_gather(maps[s]) for s in places]


def _gather(x: jax.Array) -> Output:
    pooled = x.mean(axis=(1, 2))
    registers = jnp.zeros((x.shape[0], 0, x.shape[-1]), x.dtype)
    return Output(cls=pooled, patches=x, registers=registers, pooled=pooled)
