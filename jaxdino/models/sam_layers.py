"""Small layers shared by SAM's three parts: convolutions as in torch, embeddings, activations.

The decoder's layers are initialised as in torch, uniform within 1 / sqrt(fan in): features then keep their scale from
layer to layer, and a random, frozen decoder can still be steered by adapters.
"""

import math
from collections.abc import Callable, Iterable

import jax
from flax import nnx

from jaxdino.models import initial
from jaxdino.models.conv import conv
from jaxdino.models.layers import Linear, add_bias, gelu, linear
from jaxdino.models.xla_conv import xla_conv


def uniform(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """Draw a parameter within 1 / sqrt(fan_in), torch's initialisation of linear layers, convolutions and their biases.

    Source: pytorch/pytorch torch/nn/modules/{linear,conv}.py (reset_parameters).
    """
    return nnx.Param(initial.uniform(rngs, shape, 1 / math.sqrt(fan_in)))


def dense(n_in: int, n_out: int, rngs: nnx.Rngs) -> Linear:
    """Return a linear layer initialised as in torch."""
    layer = Linear(n_in, n_out, rngs=rngs)
    layer.kernel, layer.bias = uniform(rngs, (n_in, n_out), n_in), uniform(rngs, (n_out,), n_in)
    return layer


class Conv(nnx.Module):
    """torch's Conv2d on (B, H, W, C): kernel (h, w, in, out), bias (out,); `padding` zeros on each side."""

    def __init__(
        self, n_in: int, n_out: int, side: int, rngs: nnx.Rngs, *, stride=1, padding: int = 0, use_bias: bool = True
    ):
        fan_in = side * side * n_in
        self.kernel = uniform(rngs, (side, side, n_in, n_out), fan_in)
        self.bias = uniform(rngs, (n_out,), fan_in) if use_bias else None
        self.stride, self.padding = stride, padding

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        bias = None if self.bias is None else self.bias[...]
        if kernel.shape[:2] == (1, 1):
            return linear(x, kernel[0, 0], bias)
        same = self.padding == kernel.shape[0] // 2
        y = conv(x, kernel, self.stride) if same else xla_conv(x, kernel, self.stride, self.padding)
        return y if bias is None else add_bias(y, bias)


class Doubling(nnx.Module):
    """torch's ConvTranspose2d with kernel 2 and stride 2, as one matmul; kernel (2, 2, in, out).

    As in torch, its fan in is the number of output channels times the kernel size.
    """

    def __init__(self, n_in: int, n_out: int, rngs: nnx.Rngs):
        self.kernel = uniform(rngs, (2, 2, n_in, n_out), 4 * n_out)
        self.bias = uniform(rngs, (n_out,), 4 * n_out)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (B, h, w, C) to (B, 2 h, 2 w, D)."""
        b, h, w, n_in = x.shape
        n_out = self.kernel.shape[-1]
        kernel = self.kernel[...].transpose(2, 0, 1, 3).reshape(n_in, 4 * n_out)
        y = linear(x, kernel, None).reshape(b, h, w, 2, 2, n_out).transpose(0, 1, 3, 2, 4, 5)
        return add_bias(y.reshape(b, 2 * h, 2 * w, n_out), self.bias[...])


class Embedding(nnx.Module):
    """Learned vectors, `embedding` (rows, width)."""

    def __init__(self, rows: int, width: int, rngs: nnx.Rngs):
        self.embedding = nnx.Param(initial.normal(rngs, (rows, width)))


class Gelu(nnx.Module):
    """The exact GELU as a layer, so that later layers keep the numbers of the original."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return gelu(x)


class MLPBlock(nnx.Module):
    """Feed-forward layer: lin2(activation(lin1(x)))."""

    def __init__(self, width: int, mlp_dim: int, activation: Callable[[jax.Array], jax.Array], rngs: nnx.Rngs):
        self.lin1 = dense(width, mlp_dim, rngs)
        self.lin2 = dense(mlp_dim, width, rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.lin2(self.activation(self.lin1(x)))


class MLP(nnx.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, n_in: int, hidden: int, n_out: int, rngs: nnx.Rngs):
        sizes = ((n_in, hidden), (hidden, hidden), (hidden, n_out))
        self.layers = nnx.List([dense(a, b, rngs) for a, b in sizes])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in list(self.layers)[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


def run(layers: Iterable[Callable[[jax.Array], jax.Array]], x: jax.Array) -> jax.Array:
    """Apply the layers one after the other."""
    for layer in layers:
        x = layer(x)
    return x
