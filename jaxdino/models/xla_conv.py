"""XLA's convolution, and its gradients."""

import jax
from jax import lax


def xla_conv(x_BxHxWxC: jax.Array, kernel_kxkxCxO: jax.Array, step: int, padding: int | None = None) -> jax.Array:
    """Convolve with stride `step` and zeros on every side, k // 2 by default; in x's dtype."""
    zeros = kernel_kxkxCxO.shape[0] // 2 if padding is None else padding
    return lax.conv_general_dilated(
        x_BxHxWxC,
        kernel_kxkxCxO.astype(x_BxHxWxC.dtype),
        window_strides=(step, step),
        padding=((zeros, zeros), (zeros, zeros)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def xla_input_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, step: int) -> jax.Array:
    """Return the gradient of `xla_conv` for its input."""
    return jax.vjp(lambda x: xla_conv(x, kernel, step), x)[1](g)[0]


def xla_kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, step: int) -> jax.Array:
    """Return the gradient of `xla_conv` for its kernel."""
    return jax.vjp(lambda kernel: xla_conv(x, kernel, step), kernel)[1](g)[0]
