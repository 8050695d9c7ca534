"""3 x 3 and other odd convolutions in half precision on a CPU: matrix products of rows of pixels.

XLA computes convolutions in float32 on a CPU, whatever their dtype. As products of half-precision matrices with float32
sums they take less time (docs/performance.md). Each row of the kernel is one product: the pixels
of its columns side by side (B, H, W, k C) times (k C, O). A large feature map is computed a few images at a time, so
that these copies stay in the processor's caches. Other devices run XLA's convolution.
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.models.few_images import in_parts, sum_of_parts
from jaxdino.models.half_matmul import narrow_weight_gradient
from jaxdino.models.kernel_rows import rows_under, shifted
from jaxdino.models.xla_conv import xla_conv, xla_input_gradient, xla_kernel_gradient

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
        default=functools.partial(xla_conv, step=step),
    )


def _forward(x, kernel, step):
    return half_conv(x, kernel, step), (x, kernel)


def _backward(step, residuals, g):
    x, kernel = residuals
    dx = functools.partial(_input_gradient, step=step), functools.partial(xla_input_gradient, step=step)
    dw = functools.partial(_kernel_gradient, step=step), functools.partial(xla_kernel_gradient, step=step)
    g = g.astype(x.dtype)
    return tuple(lax.platform_dependent(x, kernel, g, cpu=cpu, default=default) for cpu, default in (dx, dw))


half_conv.defvjp(_forward, _backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _moved(x: jax.Array, move: Callable[[jax.Array], list[jax.Array]]) -> list[jax.Array]:
    """Return `move(x)`, which only moves numbers, as whole numbers: XLA would convert them to float32 and back."""
    return [lax.bitcast_convert_type(one, x.dtype) for one in move(lax.bitcast_convert_type(x, jnp.uint16))]


@_moved.defjvp
def _tangents_moved(move, primals, tangents):
    """Move tangents as they are, for second derivatives: whole numbers have none."""
    (x,), (dx,) = primals, tangents
    return _moved(x, move), move(dx)


def _rows(x: jax.Array, side: int, step: int) -> list[jax.Array]:
    """Return the pixels under each row of a kernel (B, h, w, side * C), zero-padded, for all rows."""
    return _moved(x, functools.partial(rows_under, side=side, step=step))


def _products(x: jax.Array, kernel: jax.Array, step: int) -> jax.Array:
    side, _, n_in, n_out = kernel.shape
    weights = kernel.astype(x.dtype).reshape(side, side * n_in, n_out)

    def some(x):
        pairs = zip(_rows(x, side, step), weights, strict=True)
        found = sum(jnp.tensordot(row, weight, 1, preferred_element_type=jnp.float32) for row, weight in pairs)
        return jnp.asarray(found).astype(x.dtype)

    return in_parts(some, x, PIXELS * step * step)


def _input_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, step: int) -> jax.Array:
    """Compute the input's gradient; at stride 1, the convolution with the flipped kernel."""
    if step == 1:
        return _products(g, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    if step > 2 or len(kernel) == 1:
        return xla_input_gradient(x, kernel, g, step)
    height, wide = x.shape[1:3]
    found = in_parts(lambda g: _doubled(g, kernel), g, PIXELS)
    return found[:, :height, :wide]


def _doubled(g: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute the input's gradient at stride 2, of an even number of pixels (B, 2 h, 2 w, C): each parity is a product.

    Row 2 y + parity of the input lies under row i of the kernel for the output's row y + shift if
    i = parity + k // 2 - 2 shift; so do columns.
    """
    reach, weights = len(kernel) // 2, kernel.astype(g.dtype).swapaxes(2, 3)

    def under(parity: int) -> list[tuple[int, int]]:
        """Return each shift, and the row of the kernel that it goes with."""
        shifts = [(shift, parity + reach - 2 * shift) for shift in range(-reach, reach + 1)]
        return [(shift, i) for shift, i in shifts if 0 <= i < len(kernel)]

    def pixels(row: int, column: int) -> jax.Array:
        pairs = list(itertools.product(under(row), under(column)))
        (near,) = _moved(g, functools.partial(shifted, shifts=[(y, x) for (y, _), (x, _) in pairs]))
        own = jnp.concatenate([weights[i, j] for (_, i), (_, j) in pairs])
        return jnp.tensordot(near, own, 1, preferred_element_type=jnp.float32).astype(g.dtype)

    rows = [jnp.concatenate([pixels(row, column) for column in range(2)], axis=-1) for row in range(2)]
    return jnp.stack(rows, axis=2).reshape(len(g), 2 * g.shape[1], 2 * g.shape[2], -1)


def _kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array, step: int) -> jax.Array:
    def part(x, g):
        return jnp.stack([narrow_weight_gradient(row, g) for row in _rows(x, len(kernel), step)])

    return sum_of_parts(part, x, g, PIXELS * step * step).reshape(kernel.shape).astype(kernel.dtype)
