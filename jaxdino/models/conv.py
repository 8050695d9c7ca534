"""The convolution of networks and heads: XLA's, and on a CPU the form that takes the least time."""

import jax
import jax.numpy as jnp

from jaxdino.models.half_conv import half_conv
from jaxdino.models.winograd import pays, winograd_conv
from jaxdino.models.xla_conv import xla_conv

IMAGE_CHANNELS = 16
"""A convolution of at most so many input channels, as the first of a network, stays with XLA."""


def conv(x_BxHxWxC: jax.Array, kernel_kxkxCxO: jax.Array, step: int = 1) -> jax.Array:
    """Convolve with stride `step`, k odd, zero padding of k // 2 on every side; in x's dtype."""
    if x_BxHxWxC.dtype == jnp.bfloat16 and kernel_kxkxCxO.shape[2] > IMAGE_CHANNELS:  # float16 is slower there
        return half_conv(x_BxHxWxC, kernel_kxkxCxO, step)
    if pays(x_BxHxWxC, kernel_kxkxCxO, step):
        return winograd_conv(x_BxHxWxC, kernel_kxkxCxO)
    return xla_conv(x_BxHxWxC, kernel_kxkxCxO, step)
