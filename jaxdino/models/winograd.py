"""3 x 3 convolutions in float32 on a CPU with 16 multiplications for four pixels instead of 36.

A square of 2 x 2 output pixels reads a square of 4 x 4. Both factors are transformed by sums, along rows and then along
columns; between the transforms stand 16 products of matrices (pixels / 4, C) (C, O). On feature maps that stay in the
processor's caches it takes about half to three quarters of the time of XLA's convolution, with rounding errors like
those of PyTorch's (`tests/models/test_winograd.py`).

Source: Lavin and Gray 2015 (arXiv:1509.09308), F(2 x 2, 3 x 3).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.models.few_images import in_parts, sum_of_parts
from jaxdino.models.xla_conv import xla_conv, xla_input_gradient, xla_kernel_gradient

PIXELS = 3200
"""Output pixels that are computed at a time, at most, or one image."""
CHANNELS, SQUARES = 32, 32
"""Fewer channels or squares of 2 x 2 pixels take less time in XLA's convolution."""
LARGE = 160 * 160
"""So do images of more pixels, whose transforms leave the caches and take five times the memory of the image."""


def pays(x_BxHxWxC: jax.Array, kernel_kxkxCxO: jax.Array, step: int) -> bool:
    """Return whether this convolution is of the kind and size that is faster here."""
    side, _, n_in, n_out = kernel_kxkxCxO.shape
    if side != 3 or step != 1 or x_BxHxWxC.dtype != jnp.float32 or min(n_in, n_out) < CHANNELS:
        return False
    images, height, wide = x_BxHxWxC.shape[:3]
    known = all(isinstance(size, int) for size in (images, height, wide))  # an exported program has any batch size
    return known and height * wide <= LARGE and images * -(-height // 2) * -(-wide // 2) >= SQUARES


@jax.custom_vjp
def winograd_conv(x_BxHxWxC: jax.Array, kernel_3x3xCxO: jax.Array) -> jax.Array:
    """Convolve with stride 1 and zero padding of 1, in float32."""
    return lax.platform_dependent(x_BxHxWxC, kernel_3x3xCxO, cpu=_transformed, default=lambda x, k: xla_conv(x, k, 1))


def _forward(x, kernel):
    return winograd_conv(x, kernel), (x, kernel)


def _backward(residuals, g):
    """The input's gradient is the convolution with the flipped kernel."""
    x, kernel = residuals
    dx = lax.platform_dependent(
        x, kernel, g, cpu=_input_gradient, default=lambda x, k, g: xla_input_gradient(x, k, g, 1)
    )
    return dx, lax.platform_dependent(
        x, kernel, g, cpu=_kernel_gradient, default=lambda x, k, g: xla_kernel_gradient(x, k, g, 1)
    )


winograd_conv.defvjp(_forward, _backward)


def _transformed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    weights = _weights(kernel, (0, 1, 2, 3))
    return in_parts(lambda some: _convolved(some, weights, 1), x, PIXELS)


def _input_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    weights = _weights(kernel, (3, 1, 2, 0))  # of the flipped kernel
    return in_parts(lambda some: _convolved(some, weights, 2), g, PIXELS)


def _kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    """Each of the 16 products has a gradient for its weights; their sums are those of the kernel."""
    products = sum_of_parts(_products_gradient, x, g, PIXELS)
    columns = _to_kernel(products)
    return jnp.stack([jnp.stack(_to_kernel(column)) for column in columns], axis=1).astype(kernel.dtype)


def _products_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """Return the gradients of transformed weights (4 columns, 4 rows, C, O)."""
    _, height, wide, _ = g.shape
    given = jnp.pad(g, ((0, 0), (0, height % 2), (0, wide % 2), (0, 0)))
    slopes = _of_gradient(jnp.stack(_of_gradient(given, 1)), 3)
    over = ((1,), (1,)), ((0,), (0,))
    return jnp.stack(
        [lax.dot_general(_rows(one), _rows(slope), over) for one, slope in zip(_squares(x), slopes, strict=True)]
    )


def _weights(kernel: jax.Array, order: Sequence[int]) -> list[jax.Array]:
    """Transform a kernel, in float32: for each of 4 columns (4 rows, C, O), both in this order."""
    rows = [_of_kernel(row) for row in _of_kernel(kernel.astype(jnp.float32))]
    return [jnp.stack([rows[row][column] for row in order]) for column in order]


def _convolved(x: jax.Array, weights: list[jax.Array], axis: int) -> jax.Array:
    """Convolve with transformed `weights`; `axis` is the one of theirs that belongs to x's channels."""
    images, height, wide, _ = x.shape
    squares = _squares(x)
    over = ((2,), (axis,)), ((0,), (0,))
    products = [lax.dot_general(_rows(one), weight, over) for one, weight in zip(squares, weights, strict=True)]
    # the second transform: of 4 columns two, of 4 rows two, which then alternate
    columns = [_to_pixels(column) for column in _to_pixels(products)]
    rows = [jnp.stack([column[row].reshape(*squares[0].shape[1:4], -1) for column in columns], 3) for row in range(2)]
    found = jnp.stack(rows, axis=2)  # (B, h, 2, w, 2, O)
    return found.reshape(images, 2 * found.shape[1], 2 * found.shape[3], -1)[:, :height, :wide]


def _squares(x: jax.Array) -> list[jax.Array]:
    """Transform the squares of 4 x 4 pixels of a map: for each of 4 columns (4 rows, B, h, w, C)."""
    _, height, wide, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + wide % 2), (0, 0)))
    return _of_pixels(jnp.stack(_of_pixels(padded, 1)), 3)


def _rows(squares: jax.Array) -> jax.Array:
    """Return a column of transformed squares as four matrices (4, B h w, C)."""
    return squares.reshape(4, -1, squares.shape[-1])


def _of_pixels(x: jax.Array, axis: int) -> list[jax.Array]:
    """Transform each four neighbours along an axis of a padded map, every second of them."""
    a, b, c, d = (lax.slice_in_dim(x, first, first + x.shape[axis] - 3, 2, axis) for first in range(4))
    return [a - c, b + c, c - b, b - d]


def _of_kernel(x: jax.Array) -> list[jax.Array]:
    """Transform the three weights along the first axis."""
    return [x[0], (x[0] + x[1] + x[2]) / 2, (x[0] - x[1] + x[2]) / 2, x[2]]


def _to_pixels(x: list[jax.Array] | jax.Array) -> list[jax.Array]:
    """Transform four products back to two pixels."""
    return [x[0] + x[1] + x[2], x[1] - x[2] - x[3]]


def _of_gradient(x: jax.Array, axis: int) -> list[jax.Array]:
    """Transform the gradients of each two neighbours along an axis, as the gradient of `_to_pixels`."""
    a, b = (lax.slice_in_dim(x, first, None, 2, axis) for first in range(2))
    return [a, a + b, a - b, -b]


def _to_kernel(x: list[jax.Array] | jax.Array) -> list[jax.Array]:
    """Transform four gradients back to those of three weights, as the gradient of `_of_kernel`."""
    return [x[0] + (x[1] + x[2]) / 2, (x[1] - x[2]) / 2, (x[1] + x[2]) / 2 + x[3]]
