"""Depthwise convolution: XLA's own on accelerators; shifted products on CPU, where XLA's is slow.

On two CPU cores, with (4, 56, 56, 96) in float32, the forward pass takes 2 ms instead of 60, with the same values. A
large kernel is taken some channels at a time, so that its weights stay in the processor's caches; its gradient is
summed over a few rows of pixels at a time, for the same reason.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.core import sharding
from jaxdino.models.few_images import in_parts
from jaxdino.models.half_matmul import column_sums
from jaxdino.models.layers import over_last_axis
from jaxdino.models.loops import mapped
from jaxdino.models.matmul import stored
from jaxdino.models.rounding import rounded

WEIGHTS, CHANNELS = 8_000, 96
"""Weights of a kernel from which the forward pass takes some channels at a time, and how many channels at most."""
ROWS = 8
"""Rows of an image, at most, that the gradient of the kernel reads at a time."""


@jax.custom_vjp
def depthwise_conv(x_BxHxWxD: jax.Array, kernel_kxkx1xD: jax.Array, bias_D: jax.Array | None = None) -> jax.Array:
    """Convolve each channel with its own k x k kernel, k odd, and add a bias; same size, zero padding. In x's dtype."""
    bias = jnp.zeros(x_BxHxWxD.shape[-1]) if bias_D is None else bias_D
    return lax.platform_dependent(x_BxHxWxD, kernel_kxkx1xD, bias, cpu=_shifted, default=_grouped)


def _forward(x, kernel, bias):
    return depthwise_conv(x, kernel, bias), (x, kernel, bias)


def _backward(residuals, g):
    """Compute the gradients; the input's gradient is the convolution with the flipped kernel."""
    x, kernel, bias = residuals
    dx = depthwise_conv(g, kernel[::-1, ::-1])
    dkernel = lax.platform_dependent(x, kernel, g, cpu=_kernel_gradient, default=_grouped_kernel_gradient)
    return dx, dkernel, None if bias is None else column_sums(g, g.ndim - 1).astype(bias.dtype)


depthwise_conv.defvjp(_forward, _backward)


def _grouped(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    y = _grouped_conv(x, kernel)
    return y + over_last_axis(bias.astype(y.dtype), y)


def _grouped_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    reach = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(1, 1),
        padding=((reach, reach), (reach, reach)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _grouped_kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    return jax.vjp(functools.partial(_grouped_conv, x), kernel)[1](g)[0]


def _padded(x: jax.Array, reach: int) -> jax.Array:
    around = (reach, reach)
    return jnp.pad(x.astype(jnp.float32), ((0, 0), around, around, (0, 0)))


def _shifted(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """Sum the shifted images times the kernel weights, as one fused loop in float32 over the padded image."""
    side, (h, w, channels) = kernel.shape[0], x.shape[1:]
    weights, bias = kernel.astype(jnp.float32)[:, :, 0], bias.astype(jnp.float32)

    def convolved(x, weights, bias):
        wide = stored(_padded(x, side // 2))
        places = itertools.product(range(side), range(side))
        moved = (wide[:, i : i + h, j : j + w] * weights[i, j, None, None, None] for i, j in places)
        return rounded(sum(moved) + over_last_axis(bias, x), x.dtype)

    some = next(n for n in range(min(CHANNELS, channels), 0, -1) if channels % n == 0)
    if weights.size <= WEIGHTS or 4 * some <= CHANNELS or some == channels:
        return in_parts(lambda x: convolved(x, weights, bias), x, 1)
    blocks = jnp.moveaxis(x.reshape(*x.shape[:3], channels // some, some), 3, 0)
    each = jnp.moveaxis(weights.reshape(side, side, -1, some), 2, 0)
    found = mapped(lambda block: convolved(*block), (blocks, each, bias.reshape(-1, some)))
    return jnp.moveaxis(found, 0, 3).reshape(x.shape)


def _kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    """Compute each weight's gradient: the shifted image times g, summed over batch, height and width.

    One image at a time on one device, all at once on several: a loop over images would gather them.
    """
    side, (images, h, _, channels) = kernel.shape[0], x.shape
    pieces = -(-h // ROWS)
    rows = -(-h // pieces)
    below = ((0, 0), (0, pieces * rows - h), (0, 0), (0, 0))
    wide, g = jnp.pad(_padded(x, side // 2), below), jnp.pad(g.astype(jnp.float32), below)
    some = images if sharding.devices() > 1 else 1

    def add(total, place):
        image, top = place // pieces * some, place % pieces * rows
        near = lax.dynamic_slice(wide, (image, top, 0, 0), (some, rows + side - 1, *wide.shape[2:]))
        return total + _products(near, lax.dynamic_slice(g, (image, top, 0, 0), (some, rows, *g.shape[2:]))), None

    start = jnp.zeros((some, side, side, channels))
    total, _ = lax.scan(add, start, jnp.arange(images // some * pieces))
    return total.sum(0)[:, :, None].astype(kernel.dtype)


def _products(wide: jax.Array, g: jax.Array) -> jax.Array:
    """Return the sums (B, side, side, D) of g (B, h, w, D) times `wide` (B, h + side - 1, w + side - 1, D), shifted.

    For each row of the kernel, products are added over rows of pixels and stored; their sum over the columns of pixels
    is then a single call of a library for all columns of the kernel.
    """
    side = wide.shape[1] - g.shape[1] + 1

    def row(i):
        near = lax.dynamic_slice_in_dim(wide, i, g.shape[1], axis=1)
        columns = [sum(near[:, y, j : j + g.shape[2]] * g[:, y] for y in range(g.shape[1])) for j in range(side)]
        return stored(jnp.stack(columns, axis=1)).sum(2)

    return jnp.moveaxis(lax.map(row, jnp.arange(side)), 0, 1)
