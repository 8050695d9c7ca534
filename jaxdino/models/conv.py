"""The convolution of networks and heads: XLA's, and on a CPU the forms that take the least time.

XLA's gradient of a kernel is slow on a CPU, above all that of a first layer: ResNet-50's took a tenth of a step. Where
there is no other form, it is a product for each row of the kernel here, a few images at a time.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.models.few_images import sum_of_parts
from jaxdino.models.half_conv import half_conv
from jaxdino.models.kernel_rows import rows_under
from jaxdino.models.matmul import stored
from jaxdino.models.winograd import pays, winograd_conv
from jaxdino.models.xla_conv import xla_conv, xla_input_gradient, xla_kernel_gradient

IMAGE_CHANNELS = 16
"""A convolution of at most so many input channels, as the first of a network, stays with XLA."""
PIXELS = 3200
"""Output pixels whose part of a kernel's gradient is computed at a time, at most, or one image."""


def conv(x_BxHxWxC: jax.Array, kernel_kxkxCxO: jax.Array, step: int = 1) -> jax.Array:
    """Convolve with stride `step`, k odd, zero padding of k // 2 on every side; in x's dtype."""
    if x_BxHxWxC.dtype == jnp.bfloat16 and kernel_kxkxCxO.shape[2] > IMAGE_CHANNELS:  # float16 is slower there
        return half_conv(x_BxHxWxC, kernel_kxkxCxO, step)
    if pays(x_BxHxWxC, kernel_kxkxCxO, step):
        return winograd_conv(x_BxHxWxC, kernel_kxkxCxO)
    return _conv(x_BxHxWxC, kernel_kxkxCxO, step)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x, kernel, step):
    return xla_conv(x, kernel, step)


def _forward(x, kernel, step):
    return _conv(x, kernel, step), (x, kernel)


def _backward(step, residuals, g):
    x, kernel = residuals
    cpu, default = (functools.partial(form, step=step) for form in (_kernel_gradient, xla_kernel_gradient))
    return xla_input_gradient(x, kernel, g, step), lax.platform_dependent(x, kernel, g, cpu=cpu, default=default)


_conv.defvjp(_forward, _backward)


def _kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, step: int) -> jax.Array:
    """Return the sums over all pixels of those under the kernel times g, in float32.

    XLA transposes the first factor of such a product: the narrower one.
    """

    def part(x, g):
        g, rows = g.astype(jnp.float32), rows_under(x.astype(jnp.float32), len(kernel), step)
        if rows[0].shape[-1] <= g.shape[-1]:
            return jnp.stack([_over_pixels(row, g) for row in rows])
        return jnp.stack([stored(_over_pixels(g, row)).T for row in rows])

    return sum_of_parts(part, x, g, PIXELS * step * step).reshape(kernel.shape).astype(kernel.dtype)


def _over_pixels(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return x^T y (C, D) of maps (B, h, w, C) and (B, h, w, D)."""
    return lax.dot_general(stored(x), y, (((0, 1, 2), (0, 1, 2)), ((), ())))
