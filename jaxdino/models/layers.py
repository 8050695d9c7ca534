"""The layers that every backbone shares: linear, layer norm, GELU, heads of attention, drop path.

Parameters keep their own dtype (float32 in training); the compute dtype is that of the activations, and each
layer casts its parameters to it. Statistics of layer norm and softmax are always float32.

Several gradients are written by hand: those of autodiff are correct, but slower (numbers in docs/performance.md).
They support reverse mode only, as used in training.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.models.half_matmul import HALF, column_sums, half_matmul, half_sums
from jaxdino.models.initial import truncated_normal
from jaxdino.models.matmul import matmul
from jaxdino.models.rounding import rounded


class Linear(nnx.Module):
    """Linear layer y = x @ kernel + bias on the last axis; kernel (in, out), bias (out,).

    `lora` is an adapter of the kernel, called with (x, kernel, bias) instead of `linear`; see `jaxdino.models.lora`.
    """

    lora: Any = None

    def __init__(self, n_in: int, n_out: int, *, use_bias: bool = True, std: float = 0.02, rngs: nnx.Rngs):
        self.kernel = nnx.Param(truncated_normal(rngs, (n_in, n_out), std))
        self.bias = nnx.Param(jnp.zeros((n_out,))) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.project(x, self.offset)

    @property
    def offset(self) -> jax.Array | None:
        """The bias (out,), or None."""
        return None if self.bias is None else self.bias[...]

    def project(self, x: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Apply the layer with another bias (out,), or none."""
        return (self.lora or linear)(x, self.kernel[...], bias)

    def parts(self, x: jax.Array, bias: jax.Array | None, count: int) -> list[jax.Array]:
        """Apply the layer and split its output (..., out) into equal parts (..., out / count).

        On a mesh with a tensor axis, the columns of each part are divided over it.
        """
        if sharding.tensor_shards() == 1:
            return jnp.split(self.project(x, bias), count, axis=-1)
        n_in, n_out = self.kernel.shape
        kernel = self.kernel[...].astype(x.dtype).reshape(n_in, count, n_out // count)
        for axes in (("tensor",), (None, None, "tensor")):  # from rows to columns, after `fsdp` is gathered
            kernel = sharding.constrain(kernel, *axes)
        y = half_matmul(x, kernel) if x.dtype in HALF else jnp.tensordot(x, kernel, 1)
        found = [y[..., i, :] for i in range(count)]
        if self.lora is not None:
            found = self.lora.change(x, self.kernel[...], found)
        return found if bias is None else [add_bias(*pair) for pair in zip(found, jnp.split(bias, count), strict=True)]


def together(layers: Sequence[Linear], x: jax.Array) -> list[jax.Array]:
    """Return what each of several layers of the same size, with biases, makes of x (..., in), by one product."""
    kernel = jnp.concatenate([layer.kernel[...] for layer in layers], axis=1)
    bias = jnp.concatenate([layer.bias[...] for layer in layers if layer.bias is not None])
    return jnp.split(linear(x, kernel, bias), len(layers), axis=-1)


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Compute x (..., in) times kernel (in, out) plus bias, in x's dtype.

    float32 flattens the leading axes first (on CPU a 2-D matmul is 1.2x as fast as a batched one); half precision does
    not, since flattening costs a sixth there.
    """
    if x.dtype in HALF:
        return half_matmul(x, kernel, bias)
    y = matmul(x.reshape(-1, x.shape[-1]), kernel)
    y = y if bias is None else add_bias(y, bias)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Add bias (D,) to y (..., D), in y's dtype; the bias's gradient is always summed in float32."""
    return y + over_last_axis(bias.astype(y.dtype), y)


def _add_bias_fwd(y, bias):
    return add_bias(y, bias), bias


def _add_bias_bwd(bias, g):
    return g, column_sums(g, g.ndim - 1).astype(bias.dtype)


add_bias.defvjp(_add_bias_fwd, _add_bias_bwd)


def over_last_axis(vector: jax.Array, like: jax.Array) -> jax.Array:
    """Reshape (D,) to (1, ..., 1, D) with as many axes as `like`, so that no rank is promoted silently."""
    return vector.reshape((1,) * (like.ndim - 1) + (-1,))


class LayerNorm(nnx.Module):
    """Layer norm over the last axis with scale and bias; `eps` is that of the checkpoint's family."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Compute (x - mean) / sqrt(var + eps) * scale + bias over the last axis, with two-pass float32 statistics."""
    return _layer_norm_fwd(x, scale, bias, eps)[0]


def _layer_norm_fwd(x, scale, bias, eps):
    x32 = x.astype(jnp.float32)
    mean = jnp.mean(x32, axis=-1, keepdims=True)
    centred = x32 - mean
    inverse = lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)
    wide_scale, wide_bias = (over_last_axis(vector.astype(jnp.float32), x) for vector in (scale, bias))
    y = rounded(centred * inverse * wide_scale + wide_bias, x.dtype)
    return y, (x, mean, inverse, scale, bias)


def _layer_norm_bwd(eps, residuals, g):
    """Compute dx = (h - mean(h) - x^ mean(h x^)) / s, s = sqrt(var + eps), x^ = (x - mean) / s, h = g * scale."""
    x, mean, inverse, scale, bias = residuals
    g = g.astype(jnp.float32)
    unit = (x.astype(jnp.float32) - mean) * inverse
    h = g * over_last_axis(scale.astype(jnp.float32), g)
    along = jnp.mean(h * unit, axis=-1, keepdims=True)
    dx = inverse * (h - jnp.mean(h, axis=-1, keepdims=True) - unit * along)
    dscale, dbias = (column_sums(each, g.ndim - 1) for each in (g * unit, g))
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(bias.dtype)


layer_norm.defvjp(_layer_norm_fwd, _layer_norm_bwd)


class LayerScale(nnx.Module):
    """Multiply a residual branch by a learned vector, `gamma` (width,)."""

    def __init__(self, width: int, init: float):
        self.gamma = nnx.Param(jnp.full((width,), init))

    def __call__(self, x: jax.Array) -> jax.Array:
        return layer_scale(x, self.gamma[...])


@jax.custom_vjp
def layer_scale(x: jax.Array, gamma: jax.Array) -> jax.Array:
    """Compute x (..., D) times gamma (D,) in float32, in x's dtype; gamma's gradient is summed in float32."""
    return rounded(x.astype(jnp.float32) * over_last_axis(gamma.astype(jnp.float32), x), x.dtype)


def _layer_scale_fwd(x, gamma):
    return layer_scale(x, gamma), (x, gamma)


def _layer_scale_bwd(residuals, g):
    x, gamma = residuals
    dgamma = column_sums(g.astype(jnp.float32) * x.astype(jnp.float32), g.ndim - 1)
    return layer_scale(g, gamma), dgamma.astype(gamma.dtype)


layer_scale.defvjp(_layer_scale_fwd, _layer_scale_bwd)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Compute the exact GELU, used by the checkpoints of all families: x cdf(x) of the normal distribution.

    Uses erf in float32, as torch does: `jax.nn.gelu` uses erfc, which is 2-3 x slower on CPU.
    """
    return rounded(x.astype(jnp.float32) * _normal_cdf(x), x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + lax.erf(x.astype(jnp.float32) * math.sqrt(0.5)))


def _gelu_fwd(x):
    return gelu(x), x


def _gelu_bwd(x, g):
    """Compute gelu'(x) = cdf(x) + x pdf(x), in float32 and from x alone.

    cdf(x) is written as 1 - cdf(-x): the same bits, since erf is odd. Written as in the forward pass, XLA would merge
    the two and keep a float32 erf of every activation, which costs more than computing it again.
    """
    x32 = x.astype(jnp.float32)
    pdf = jnp.exp(-0.5 * jnp.square(x32)) * (1 / math.sqrt(2 * math.pi))
    cdf = 0.5 * (1 - lax.erf(x32 * -math.sqrt(0.5)))
    return ((g.astype(jnp.float32) * (cdf + x32 * pdf)).astype(x.dtype),)


gelu.defvjp(_gelu_fwd, _gelu_bwd)


def gelu_after(layer: Linear, x: jax.Array) -> jax.Array:
    """Compute gelu(layer(x)), in half precision without rounding what GELU reads; for inference alone."""
    if x.dtype not in HALF or layer.lora is not None:
        return gelu(layer(x))
    hidden = half_sums(x, layer.kernel[...], layer.offset)
    return rounded(hidden * _normal_cdf(hidden), x.dtype)


@jax.custom_vjp
def quick_gelu(x: jax.Array) -> jax.Array:
    """Compute x sigmoid(1.702 x) in float32, as in OpenAI's CLIP. Source: openai/CLIP clip/model.py."""
    x32 = x.astype(jnp.float32)
    return rounded(x32 * jax.nn.sigmoid(1.702 * x32), x.dtype)


def _quick_gelu_fwd(x):
    return quick_gelu(x), x


def _quick_gelu_bwd(x, g):
    """Compute s + 1.702 x s (1 - s) with s = sigmoid(1.702 x), in float32 and from x alone."""
    x32 = x.astype(jnp.float32)
    s = jax.nn.sigmoid(1.702 * x32)
    return ((g.astype(jnp.float32) * s * (1 + 1.702 * x32 * (1 - s))).astype(x.dtype),)


quick_gelu.defvjp(_quick_gelu_fwd, _quick_gelu_bwd)


def drop_path(branch_BxNxD: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Apply stochastic depth: zero the branch of a sample with probability `rate`, scale the others by 1/(1 - rate).

    Without a key, return the branch unchanged. Source: Huang et al. 2016 (arXiv:1603.09382), per sample as in timm.
    """
    if key is None or rate == 0.0:
        return branch_BxNxD
    keep = jax.random.bernoulli(key, 1.0 - rate, (branch_BxNxD.shape[0], 1, 1))
    return branch_BxNxD * (keep / (1.0 - rate)).astype(branch_BxNxD.dtype)


def project_heads(layer: Linear, x_BxNxD: jax.Array, bias: jax.Array | None, num_heads: int) -> tuple[jax.Array, ...]:
    """Apply a fused projection, columns ordered q, k, v and then by head; return q, k, v (B, H, N, d).

    Raises:
      UserError: if the tensor axis of the mesh does not divide the heads.
    """
    shards = sharding.tensor_shards()
    if shards == 1:
        return split_heads(layer.project(x_BxNxD, bias), num_heads)
    if num_heads % shards:
        raise UserError(f"mesh.tensor={shards} does not divide {num_heads} attention heads: give a number that does")
    parts = (part.reshape(*part.shape[:2], num_heads, -1) for part in layer.parts(x_BxNxD, bias, 3))
    return tuple(sharding.constrain(jnp.swapaxes(part, 1, 2), sharding.BATCH_AXES, "tensor") for part in parts)


def split_heads(qkv_BxNx3D: jax.Array, num_heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Split a fused projection, columns ordered q, k, v and then by head, into q, k, v (B, H, N, d)."""
    return _split_heads(qkv_BxNx3D, num_heads)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _split_heads(qkv_BxNx3D: jax.Array, num_heads: int) -> Any:
    b, n, width = qkv_BxNx3D.shape
    apart = jnp.transpose(qkv_BxNx3D.reshape(b, n, 3, num_heads, width // (3 * num_heads)), (2, 0, 3, 1, 4))
    return apart[0], apart[1], apart[2]


def _split_heads_fwd(qkv, num_heads):
    return _split_heads(qkv, num_heads), None


def _split_heads_bwd(num_heads, _, gs):
    """Concatenate the three gradients; autodiff would pad each to full width and add them."""
    b, h, n, d = gs[0].shape
    return (jnp.concatenate([jnp.swapaxes(g, 1, 2).reshape(b, n, h * d) for g in gs], axis=-1),)


_split_heads.defvjp(_split_heads_fwd, _split_heads_bwd)
