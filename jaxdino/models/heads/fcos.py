"""A dense detection head without anchors: a feature pyramid, and at each place the class, the box and the centerness.

Sources: Tian et al. 2019 (arXiv:1904.01355) and 2020 (arXiv:2006.09214), FCOS; Lin et al. 2017 (arXiv:1612.03144), the
feature pyramid; Li et al. 2022 (arXiv:2203.16527), the simple pyramid of a plain ViT.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice, check_range
from jaxdino.models.conv import conv
from jaxdino.models.initial import normal
from jaxdino.models.layers import Linear
from jaxdino.models.max_pool import halved
from jaxdino.models.output import Output

PYRAMIDS = ("stages", "patches")
STAGES = 3  # the last feature maps of a hierarchical network that are read
PRIOR = 0.01  # probability of each class at the start, so that background does not dominate the first steps
GROUPS = 8


@dataclasses.dataclass(frozen=True)
class FCOSHeadConfig:
    """The shape of a dense detection head; see `heads.HeadConfig`.

    Attributes:
      blocks: of a ViT, the last blocks whose patch tokens are concatenated; of other networks 1.
      pyramid: "stages": the last three feature maps of a hierarchical network, each half as wide and twice as fine as
        the next; "patches": the patch tokens at twice, once and half their resolution. Both get one coarser level.
      strides: pixels between the places of each of the four levels; set by the task.
      width: channels of the pyramid and the head. convs: convolutions before the predictions.
    """

    num_classes: int = 0
    blocks: int | tuple[int, ...] = 1
    pyramid: str = "stages"
    strides: tuple[int, ...] = (8, 16, 32, 64)
    width: int = 128
    convs: int = 2
    name: ClassVar[str] = "fcos"
    of: ClassVar[str] = "box"

    def __post_init__(self):
        for name in ("blocks", "strides"):
            if isinstance(value := getattr(self, name), list):  # from JSON or a config
                object.__setattr__(self, name, tuple(value))
        check_choice("pyramid", self.pyramid, PYRAMIDS)
        check_range("num_classes", self.num_classes, "[0, inf)")
        check_range("width", self.width, "[1, inf)")
        check_range("convs", self.convs, "[0, inf)")
        if self.width % GROUPS:
            raise UserError(f"width={self.width} of a detection head must be a multiple of {GROUPS}")

    @property
    def choice(self) -> None:
        """None: the head finds boxes, not the classes of an image."""
        return None

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> "FCOSHead":
        """Build the head with small random kernels, and a probability of `PRIOR` for each class."""
        return FCOSHead(self, width, rngs)


class Conv(nnx.Module):
    """3 x 3 convolution with a bias, padded by 1; kernel (3, 3, in, out)."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs, *, stride: int = 1, std: float = 0.0, bias: float = 0.0):
        self.kernel = nnx.Param(normal(rngs, (3, 3, n_in, n_out), std or math.sqrt(1 / (9 * n_in))))
        self.bias = nnx.Param(jnp.full((n_out,), bias))
        self.stride = stride

    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        found = conv(x_BxHxWxC, self.kernel[...], self.stride)
        return found + self.bias[...].astype(x_BxHxWxC.dtype)[None, None, None]


class GroupNorm(nnx.Module):
    """Group norm over height, width and each of `GROUPS` groups of channels, as torch.nn.GroupNorm."""

    def __init__(self, width: int, eps: float = 1e-5):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.eps = eps

    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        batch, height, width, channels = x_BxHxWxC.shape
        grouped = x_BxHxWxC.astype(jnp.float32).reshape(batch, height, width, GROUPS, channels // GROUPS)
        mean = grouped.mean(axis=(1, 2, 4), keepdims=True)
        var = jnp.square(grouped - mean).mean(axis=(1, 2, 4), keepdims=True)
        flat = ((grouped - mean) * lax.rsqrt(var + self.eps)).reshape(x_BxHxWxC.shape)
        shape = (1, 1, 1, channels)
        return (flat * self.scale[...].reshape(shape) + self.bias[...].reshape(shape)).astype(x_BxHxWxC.dtype)


class Pyramid(nnx.Module):
    """Three maps of a backbone -> four of one width: lateral 1 x 1 convolutions, top-down sums, smoothing, one more."""

    def __init__(self, widths: Sequence[int], width: int, rngs: nnx.Rngs):
        self.lateral = nnx.List([Linear(one, width, std=math.sqrt(1 / one), rngs=rngs) for one in widths])
        self.smooth = nnx.List([Conv(width, width, rngs) for _ in widths])
        self.coarser = Conv(width, width, rngs, stride=2)

    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """Map the features, finest first, to the levels, finest first."""
        found = [layer(one) for layer, one in zip(self.lateral, maps, strict=True)]
        for level in range(len(found) - 2, -1, -1):
            found[level] = found[level] + _enlarged(found[level + 1], found[level].shape)
        levels = [layer(one) for layer, one in zip(self.smooth, found, strict=True)]
        return [*levels, self.coarser(levels[-1])]


def _enlarged(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Repeat each pixel twice along height and width, and cut off what is more than `shape`."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)[:, : shape[1], : shape[2]]


class FCOSHead(nnx.Module):
    """The pyramid, and the head that all levels share; computed in float32."""

    def __init__(self, cfg: FCOSHeadConfig, width: int, rngs: nnx.Rngs):
        own = [width // 2**level for level in reversed(range(STAGES))]
        if cfg.pyramid == "patches":
            count = len(cfg.blocks) if isinstance(cfg.blocks, tuple) else cfg.blocks
            own = [cfg.width, width * count, width * count]
            self.doubled = Linear(width * count, 4 * cfg.width, std=math.sqrt(1 / (width * count)), rngs=rngs)
        self.pyramid = Pyramid(own, cfg.width, rngs)
        towers = {"cls": cfg.num_classes, "box": 5}  # four distances and the centerness
        for name, outputs in towers.items():
            layers = [
                layer for _ in range(cfg.convs) for layer in (Conv(cfg.width, cfg.width, rngs), GroupNorm(cfg.width))
            ]
            setattr(self, f"{name}_tower", nnx.List(layers))
            bias = -math.log((1 - PRIOR) / PRIOR) if name == "cls" else 0.0
            setattr(self, f"{name}_out", Conv(cfg.width, outputs, rngs, std=0.01, bias=bias))
        self.scales = nnx.Param(jnp.ones((len(cfg.strides),)))
        self.cfg = cfg

    def maps(self, outs: Sequence[Output]) -> list[jax.Array]:
        """Return three maps of the backbone, finest first, float32. Raises UserError for a network without stages."""
        if self.cfg.pyramid == "stages":
            found = [one.astype(jnp.float32) for one in outs[-1].stages[-STAGES:]]
            if len(found) < STAGES:
                raise UserError(f"the detection head reads {STAGES} feature maps, and the network has {len(found)}")
            return found
        x_BxhxwxD = jnp.concatenate([out.patches for out in outs], axis=-1).astype(jnp.float32)
        batch, height, width, _ = x_BxhxwxD.shape
        fine = self.doubled(x_BxhxwxD).reshape(batch, height, width, 2, 2, self.cfg.width).transpose(0, 1, 3, 2, 4, 5)
        fine = jax.nn.gelu(fine.reshape(batch, 2 * height, 2 * width, self.cfg.width), approximate=False)
        return [fine, x_BxhxwxD, halved(x_BxhxwxD)]

    def __call__(self, outs: Sequence[Output], key: jax.Array | None = None) -> dict[str, jax.Array]:
        """Map a backbone's outputs to predictions at L places, see `models.boxes.grid`, float32.

        Returns:
          {"logits": (B, L, classes), "distances": (B, L, 4) to left, top, right, bottom in strides, "centerness": (B,
          L), a logit}.
        """
        found: dict[str, list[jax.Array]] = {"logits": [], "distances": [], "centerness": []}
        for level, x in enumerate(self.pyramid(self.maps(outs))):
            for name in ("cls", "box"):
                y = x
                for layer in getattr(self, f"{name}_tower"):
                    y = jax.nn.relu(layer(y)) if isinstance(layer, GroupNorm) else layer(y)
                y = getattr(self, f"{name}_out")(y)
                y = y.reshape(y.shape[0], -1, y.shape[-1])
                if name == "cls":
                    found["logits"].append(y)
                else:
                    found["distances"].append(jnp.exp(jnp.minimum(y[..., :4] * self.scales[level], 8.0)))
                    found["centerness"].append(y[..., 4])
        return {name: jnp.concatenate(parts, axis=1) for name, parts in found.items()}
