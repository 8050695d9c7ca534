"""ConvNeXt as distilled by DINOv3: four stages of depthwise convolutions, one final norm over pooled and patches."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.models.depthwise import depthwise_conv
from jaxdino.models.few_images import in_parts, inference
from jaxdino.models.initial import truncated_normal
from jaxdino.models.layer_spec import Layer
from jaxdino.models.layers import LayerNorm, Linear, drop_path, gelu, gelu_after, layer_scale
from jaxdino.models.output import Output, chosen
from jaxdino.models.patches import PatchConv
from jaxdino.models.remat import Remat, repeated

STEM, STEP, SIDE = 4, 2, 7
"""The stem's stride, each later stage's stride, and the side of the depthwise kernels."""
PIXELS = 3200
"""Pixels of feature maps whose MLP is computed at a time, at most, or one image."""


@dataclasses.dataclass(frozen=True)
class ConvNeXtConfig:
    """The shape of a ConvNeXt.

    Attributes:
      depths, widths: blocks and channels of each stage; any number of stages.
      norm_twice: whether the checkpoint has the final norm twice, as Meta's do (`norm` and `norms.<last stage>`, the
        same module). It does not affect the forward pass; it is kept so that export restores the file's keys.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    in_channels: int = 3
    norm_eps: float = 1e-6
    norm_twice: bool = True
    input_kernel: ClassVar[str] = "backbone.downsample_layers.0.0.kernel"

    @property
    def width(self) -> int:
        """Width of the last stage, the input of a head."""
        return self.widths[-1]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The stem, each block, the final norm; the first block of a stage includes the downsampling before it."""
        down = "backbone.downsample_layers."
        blocks = []
        for s, depth in enumerate(self.depths):
            for i in range(depth):
                before = (f"{down}{s}",) if s and not i else ()
                blocks.append(Layer(f"stages.{s}.{i}", "block", (*before, f"backbone.stages.{s}.{i}")))
        return (Layer("stem", "stem", (f"{down}0",)), *blocks, Layer("norm", "norm", ("backbone.norm",)))

    def places(self) -> list[dict[str, int]]:
        """Values of `{s}`, `{i}`: each stage and block; `{d}`: each stage with downsampling; `{last}`: the last."""
        blocks = [{"s": s, "i": i} for s, depth in enumerate(self.depths) for i in range(depth)]
        return [*blocks, *({"d": d} for d in range(1, len(self.depths))), {"last": len(self.depths) - 1}]

    def with_channels(self, channels: int) -> "ConvNeXtConfig":
        """Return the configuration for images with this number of channels."""
        return dataclasses.replace(self, in_channels=channels)

    def build(self, **how) -> "ConvNeXt":
        """Build the network with random parameters; `how` are arguments of `ConvNeXt`."""
        return ConvNeXt(self, **how)


class DepthwiseConv(nnx.Module):
    """7 x 7 convolution of each channel separately, same size; kernel (7, 7, 1, width), bias (width,)."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(truncated_normal(rngs, (SIDE, SIDE, 1, width)))
        self.bias = nnx.Param(jnp.zeros((width,)))

    def __call__(self, x_BxHxWxD: jax.Array) -> jax.Array:
        return depthwise_conv(x_BxHxWxD, self.kernel[...], self.bias[...])


class Block(nnx.Module):
    """Block: x + gamma * pwconv2(gelu(pwconv1(norm(dwconv(x))))), with stochastic depth."""

    def __init__(self, width: int, eps: float, drop_rate: float, rngs: nnx.Rngs):
        self.dwconv = DepthwiseConv(width, rngs)
        self.norm = LayerNorm(width, eps)
        self.pwconv1 = Linear(width, 4 * width, rngs=rngs)
        self.pwconv2 = Linear(4 * width, width, rngs=rngs)
        self.gamma = nnx.Param(jnp.ones((width,)))
        self.drop_rate = drop_rate

    def __call__(self, x_BxHxWxD: jax.Array, key: jax.Array | None) -> jax.Array:
        branch = self.dwconv(x_BxHxWxD)
        branch = in_parts(self._by_rows, branch, PIXELS) if inference() else self._mlp(branch)
        branch = layer_scale(branch, self.gamma[...])
        rows = branch.reshape(branch.shape[0], -1, branch.shape[-1])
        return x_BxHxWxD + drop_path(rows, self.drop_rate, key).reshape(branch.shape)

    def _mlp(self, x: jax.Array) -> jax.Array:
        return self.pwconv2(gelu(self.pwconv1(self.norm(x))))

    def _by_rows(self, x_BxHxWxD: jax.Array) -> jax.Array:
        """Apply norm and MLP to a list of pixels: XLA would store the bias of a 4-D product at every pixel.

        For inference alone: gradients are slower this way.
        """
        rows = self.norm(x_BxHxWxD.reshape(-1, x_BxHxWxD.shape[-1]))
        return self.pwconv2(gelu_after(self.pwconv1, rows)).reshape(x_BxHxWxD.shape)


class ConvNeXt(nnx.Module):
    """A ConvNeXt; see `ConvNeXtConfig` for its shape and `Output` for its output.

    Sources: facebookresearch/dinov3 dinov3/models/convnext.py; Liu et al. 2022, A ConvNet for the 2020s
    (arXiv:2201.03545).
    """

    def __init__(
        self,
        cfg: ConvNeXtConfig,
        *,
        rngs: nnx.Rngs,
        drop_path: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        attention: str = "xla",
        remat: Remat = False,
    ):
        first, *others = cfg.widths
        downsample = [nnx.List([PatchConv(STEM, cfg.in_channels, first, rngs), LayerNorm(first, cfg.norm_eps)])]
        for before, width in zip(cfg.widths, others, strict=False):
            downsample.append(nnx.List([LayerNorm(before, cfg.norm_eps), PatchConv(STEP, before, width, rngs)]))
        self.downsample_layers = nnx.List(downsample)
        total = sum(cfg.depths)
        rates = iter(drop_path * i / max(total - 1, 1) for i in range(total))  # rising from the first block to the last
        stages = []
        for depth, width in zip(cfg.depths, cfg.widths, strict=True):
            stages.append(nnx.List([Block(width, cfg.norm_eps, next(rates), rngs) for _ in range(depth)]))
        self.stages = nnx.List(stages)
        self.norm = LayerNorm(cfg.width, cfg.norm_eps)
        self.cfg, self.dtype, self.remat = cfg, dtype, remat

    def stem(self, images: jax.Array) -> jax.Array:
        """Map images (B, H, W, C) to (B, H // 4, W // 4, first width), with the stem's norm applied.

        Raises:
          UserError: if a side is too short to leave the last stage a pixel, or the number of channels differs.
        """
        least = STEM * STEP ** (len(self.cfg.depths) - 1)
        _, height, width, channels = images.shape
        if min(height, width) < least or channels != self.cfg.in_channels:
            raise UserError(
                f"images of {height}x{width} with {channels} channels do not fit: give at least {least} pixels a side "
                f"and {self.cfg.in_channels} channels"
            )
        return self._downsample(0, images.astype(self.dtype))

    def _downsample(self, stage: int, x: jax.Array) -> jax.Array:
        for layer in self.downsample_layers[stage]:
            x = layer(x)
        return x

    def stage_maps(self, images: jax.Array, key: jax.Array | None = None) -> list[jax.Array]:
        """Return the final feature map (B, h, w, D of the stage) of each stage, without norm."""
        x, maps, count = self.stem(images), [], 0
        for s, blocks in enumerate(self.stages):
            x = self._downsample(s, x) if s else x
            for block in blocks:
                block_key = None if key is None else jax.random.fold_in(key, count)
                x = (repeated(block.__call__, self.remat))(x, block_key)
                count += 1
            maps.append(x)
        return maps

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> Output:
        """Map normalised float images (B, H, W, C) to Output: stages without norm, cls and patches after final norm.

        Sides need not be multiples of 32: incomplete patches at the right and the bottom are ignored.
        With a key, stochastic depth is active.

        Raises:
          UserError: if a mask is given, since a ConvNeXt has no mask token, and as `stem`.
        """
        if mask is not None:
            raise UserError("a ConvNeXt has no mask token: patches cannot be masked")
        maps = self.stage_maps(images, key)
        return dataclasses.replace(self.finish(maps[-1]), stages=tuple(maps))

    def finish(self, x: jax.Array) -> Output:
        """Apply the final norm to the last feature map (B, h, w, D) and return it as an `Output`."""
        return self._gather(x, self.norm)

    def _gather(self, x: jax.Array, norm=lambda x: x) -> Output:
        pooled = norm(x.mean(axis=(1, 2)))
        registers = jnp.zeros((x.shape[0], 0, x.shape[-1]), x.dtype)
        return Output(cls=pooled, patches=norm(x), registers=registers, pooled=pooled)

    def intermediate_layers(
        self, images: jax.Array, n: int | Sequence[int] = 1, patch_size: int | None = None
    ) -> list[Output]:
        """Return the outputs of the last `n` stages, or of the stages with the given indices from 0.

        As in Meta's code, the final norm is applied only to the last stage.

        Args:
          patch_size: resize the feature maps, antialiased and before the norm, to the grid of a ViT with this patch
            size, (H // patch_size, W // patch_size). None, as in Meta's hub, keeps their sizes.

        Raises:
          UserError: if there are no such stages.
        """
        last = len(self.cfg.depths) - 1
        places, maps, found = chosen(n, last + 1, "stages"), self.stage_maps(images), []
        for s in places:
            norm = self.norm if s == last else lambda x: x
            out = self._gather(maps[s], norm)
            if patch_size is not None:
                size = (images.shape[1] // patch_size, images.shape[2] // patch_size)
                out = dataclasses.replace(out, patches=norm(_resized(maps[s], size)))
            found.append(out)
        return found


def _resized(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize (B, h, w, D) with a triangle filter, widened to the step when shrinking."""
    shape = (x.shape[0], *size, x.shape[-1])
    return jax.image.resize(x.astype(jnp.float32), shape, "linear", antialias=True).astype(x.dtype)
