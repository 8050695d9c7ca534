"""Convert images to patches: a convolution whose stride equals its kernel size, computed as one matmul."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.models.initial import truncated_normal
from jaxdino.models.layers import linear


class PatchConv(nnx.Module):
    """A convolution whose stride equals its kernel size; kernel (p, p, in, out), bias (out,).

    Rows and columns of incomplete patches are ignored, as by torch's convolution without padding.
    """

    def __init__(self, side: int, n_in: int, n_out: int, rngs: nnx.Rngs, *, use_bias: bool = True):
        self.kernel = nnx.Param(truncated_normal(rngs, (side, side, n_in, n_out)))
        self.bias = nnx.Param(jnp.zeros((n_out,))) if use_bias else None

    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        """Map (B, H, W, C) to (B, H // p, W // p, D)."""
        kernel = self.kernel[...]
        p, _, c, width = kernel.shape
        b, height, wide, _ = x_BxHxWxC.shape
        h, w = height // p, wide // p
        x = x_BxHxWxC[:, : h * p, : w * p].reshape(b, h, p, w, p, c).transpose(0, 1, 3, 2, 4, 5)
        bias = None if self.bias is None else self.bias[...]
        return linear(x.reshape(b, h, w, p * p * c), kernel.reshape(p * p * c, width), bias)


class PatchEmbed(nnx.Module):
    """Map images to patch tokens through `proj`; images must be divisible into whole patches."""

    def __init__(self, patch: int, channels: int, width: int, rngs: nnx.Rngs, *, use_bias: bool = True):
        self.proj = PatchConv(patch, channels, width, rngs, use_bias=use_bias)

    def __call__(self, images_BxHxWxC: jax.Array) -> jax.Array:
        """Map (B, H, W, C) to (B, h, w, D).

        Raises:
          UserError: if the sides are not multiples of the patch size, or the channels differ from those of the kernel.
        """
        p, _, c, _ = self.proj.kernel.shape
        _, height, wide, channels = images_BxHxWxC.shape
        if channels != c:
            raise UserError(f"the images have {channels} channels and the model takes {c} (in_channels)")
        if height % p or wide % p:
            raise UserError(
                f"images of {height}x{wide} do not fit patches of {p} pixels: give sizes that are multiples of {p}"
            )
        return self.proj(images_BxHxWxC)
