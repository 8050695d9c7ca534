"""3 x 3 and other odd convolutions in half precision on a CPU: matrix products of rows of pixels.

XLA computes convolutions in float32 on a CPU, whatever their dtype. As products of half-precision matrices with float32
sums they take less time (docs/performance.md). Each row of the kernel is one product: the pixels
of its columns side by side (B, H, W, k C) times (k C, O). A large feature map is computed a few images at a time, so
that these copies stay in the processor's caches. Other devices run XLA's convolution.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.models.few_images import in_parts
from jaxdino.models.half_matmul import narrow_weight_gradient

PIXELS = 3200
"""Output pixels that are computed at a time, at most, or one image."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def half_conv(x_BxHxWxC: jax.Array, kernel_kxkxCxO: jax.Array, step: int) -> jax.Array:
    """Convolve with stride `step`, k odd, zero padding of k // 2 on every side; in x's half-precision dtype.

    The sums are float32 and rounded once.
    """
    return lax.platform_dependent(
        x_BxHxWxC,
        kernel_kxkxCxO,
        cpu=lambda x, kernel: _products(x, kernel, step),
        default=functools.partial(conv, step=step),
    )


def _forward(x, kernel, step):
    return half_conv(x, kernel, step), (x, kernel)


def _backward(step, residuals, g):
    x, kernel = residuals
    dx = functools.partial(_input_gradient, step=step), functools.partial(_conv_input_gradient, step=step)
    dw = functools.partial(_kernel_gradient, step=step), functools.partial(_conv_kernel_gradient, step=step)
    g = g.astype(x.dtype)
    return tuple(lax.platform_dependent(x, kernel, g, cpu=cpu, default=default) for cpu, default in (dx, dw))


half_conv.defvjp(_forward, _backward)


def conv(x: jax.Array, kernel: jax.Array, step: int) -> jax.Array:
    """Convolve by XLA, with the padding and dtype of `half_conv`."""
    around = (kernel.shape[0] // 2, kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        window_strides=(step, step),
        padding=(around, around),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _conv_input_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, step: int) -> jax.Array:
    return jax.vjp(lambda x: conv(x, kernel, step), x)[1](g)[0]


def _conv_kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, step: int) -> jax.Array:
    return jax.vjp(lambda kernel: conv(x, kernel, step), kernel)[1](g)[0]


def _columns(x: jax.Array, side: int, step: int) -> jax.Array:
    """Return the pixels under each row of a kernel (B, H + side - 1, w, side * C), zero-padded."""
    reach, wide = side // 2, x.shape[2]
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    return jnp.concatenate([padded[:, :, j : j + wide : step] for j in range(side)], axis=-1)


def _products(x: jax.Array, kernel: jax.Array, step: int) -> jax.Array:
    side, _, n_in, n_out = kernel.shape
    rows = kernel.astype(x.dtype).reshape(side, side * n_in, n_out)

    def some(x):
        pixels, high = _columns(x, side, step), x.shape[1]
        parts = (
            jnp.tensordot(pixels[:, i : i + high : step], rows[i], 1, preferred_element_type=jnp.float32)
            for i in range(side)
        )
        return jnp.asarray(sum(parts)).astype(x.dtype)

    return in_parts(some, x, PIXELS * step * step)


def _input_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, step: int) -> jax.Array:
    """Compute the input's gradient; at stride 1, the convolution with the flipped kernel."""
    if step > 1:
        return _conv_input_gradient(x, kernel, g, step)
    return _products(g, kernel[::-1, ::-1].swapaxes(2, 3), 1)


def _kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, step: int) -> jax.Array:
    side, high = kernel.shape[0], x.shape[1]
    pixels = _columns(x, side, step)
    found = [narrow_weight_gradient(pixels[:, i : i + high : step], g) for i in range(side)]
    return jnp.stack(found).reshape(kernel.shape).astype(kernel.dtype)
