"""What dense decoders share: the feature maps that they read, resizing, and convolutions."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice
from jaxdino.models.conv import conv
from jaxdino.models.initial import normal
from jaxdino.models.output import Output
from jaxdino.models.positions import linear_matrix

BLOCKS, STAGES = "blocks", "stages"
LEVELS = 4
"""Number of feature maps that decoders of several levels read."""


def as_blocks(blocks: int | Sequence[int]) -> int | tuple[int, ...]:
    """Return the blocks of a head as a tuple or a number. Raises UserError unless they are one of these, in order."""
    several = not isinstance(blocks, int)
    indices = tuple(blocks) if several else (blocks,)
    if not indices or any(type(n) is not int or n < (not several) for n in indices):
        raise UserError(f"blocks={blocks!r} of a head is a number of blocks, or their indices")
    if list(indices) != sorted({*indices}):
        raise UserError(f"blocks={blocks!r} of a head: give the indices in order, each once")
    return indices if several else indices[0]


def count(blocks: int | tuple[int, ...]) -> int:
    """Return the number of blocks."""
    return len(blocks) if isinstance(blocks, tuple) else blocks


def check_levels(source: str, blocks: int | tuple[int, ...]) -> None:
    """Raise UserError unless a decoder reads `LEVELS` blocks of a ViT, or the stages of another network."""
    check_choice("source", source, (BLOCKS, STAGES))
    wanted = LEVELS if source == BLOCKS else 1
    if count(blocks) != wanted:
        raise UserError(f"blocks={blocks!r} of a decoder on {source} must be {wanted}, or so many indices")


def even(depth: int, levels: int = LEVELS) -> tuple[int, ...]:
    """Return the indices of blocks at even intervals, the last block last: 2, 5, 8, 11 of 12. All of fewer blocks."""
    if depth < levels:
        raise UserError(f"the decoder reads {levels} blocks, and the network has {depth}")
    return tuple(round(depth * (level + 1) / levels) - 1 for level in range(levels))


def widths_of(width: int, source: str, levels: int = LEVELS) -> list[int]:
    """Return the channels of the maps, given those of the last: of stages each has half of the next."""
    return [width // 2**level for level in reversed(range(levels))] if source == STAGES else [width] * levels


def read(outs: Sequence[Output], source: str, widths: Sequence[int]) -> list[jax.Array]:
    """Return the feature maps of blocks or stages, float32 (B, h, w, D of the map); of stages the finest first.

    Raises:
      UserError: for a network with fewer stages, or stages of other widths.
    """
    if source == BLOCKS:
        return [out.patches.astype(jnp.float32) for out in outs]
    found = [one.astype(jnp.float32) for one in outs[-1].stages[-len(widths) :]]
    if [one.shape[-1] for one in found] != list(widths):
        own = ", ".join(str(one.shape[-1]) for one in outs[-1].stages) or "none"
        raise UserError(f"the head reads feature maps of {', '.join(map(str, widths))} channels; the network has {own}")
    return found


def resized(x_BxhxwxD: jax.Array, size: Sequence[int], corners: bool = False) -> jax.Array:
    """Resize maps to (B, H, W, D) as torch's bilinear `interpolate`; `corners` is its align_corners."""
    if x_BxhxwxD.shape[1:3] == tuple(size):
        return x_BxhxwxD
    rows, columns = (linear_matrix(a, b, corners) for a, b in zip(x_BxhxwxD.shape[1:3], size, strict=True))
    matrices = jnp.asarray(rows, x_BxhxwxD.dtype), jnp.asarray(columns, x_BxhxwxD.dtype)
    return jnp.einsum("yh,xw,bhwd->byxd", *matrices, x_BxhxwxD, precision="highest")


class Conv(nnx.Module):
    """3 x 3 convolution, padded by 1; kernel (3, 3, in, out)."""

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs, *, stride: int = 1, bias: bool = True, std: float = 0.0):
        self.kernel = nnx.Param(normal(rngs, (3, 3, n_in, n_out), std or math.sqrt(2 / (9 * n_in))))
        self.bias = nnx.Param(jnp.zeros((n_out,))) if bias else None
        self.stride = stride

    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        found = conv(x_BxHxWxC, self.kernel[...], self.stride)
        return found if self.bias is None else found + self.bias[...].astype(found.dtype)[None, None, None]


class Enlarge(nnx.Module):
    """Transposed convolution whose stride is its kernel size: a place becomes a square; kernel (k, k, in, out)."""

    def __init__(self, n_in: int, n_out: int, side: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(normal(rngs, (side, side, n_in, n_out), math.sqrt(1 / n_in)))
        self.bias = nnx.Param(jnp.zeros((n_out,)))

    def __call__(self, x_BxhxwxC: jax.Array) -> jax.Array:
        """Map (B, h, w, C) to (B, k h, k w, D)."""
        kernel = self.kernel[...]
        side, _, _, n_out = kernel.shape
        batch, height, width, _ = x_BxhxwxC.shape
        found = jnp.einsum("bhwc,yxcd->bhywxd", x_BxhxwxC, kernel.astype(x_BxhxwxC.dtype))
        found = found.reshape(batch, side * height, side * width, n_out)
        return found + self.bias[...].astype(found.dtype)[None, None, None]
