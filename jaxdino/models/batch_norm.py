"""Batch norm: running statistics in evaluation; in training, batch statistics that update the running ones."""

import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxdino.core.errors import UserError
from jaxdino.core.params import Buffer, bind, split
from jaxdino.models.layers import over_last_axis
from jaxdino.models.remat import Remat, policy

MOMENTUM = 0.9
"""Share of the running statistics kept at each batch; torch's `momentum=0.1` is the other share."""


class BatchNorm(nnx.Module):
    """Batch norm over all axes but the last, with statistics in float32.

    In evaluation, the default mode, the running `mean` and `var` normalise. In training (see `set_training`) the
    batch's mean and biased variance normalise, and the running `mean`, `var` (unbiased, as in torch) and the
    count are updated. Under a mesh the batch is the global batch: the mean is taken over all devices, which torch calls
    synchronised batch norm. Examples of weight 0 count like the others. The exponential moving average of a classifier
    is evaluated with these same running statistics; self-distillation's teacher has its own.

    Source: Ioffe and Szegedy 2015 (arXiv:1502.03167); eps and momentum are torch.nn.BatchNorm2d's defaults.

    Attributes:
      count: whether the checkpoint has `num_batches_tracked`, the number of training steps; it has no effect.
    """

    def __init__(self, width: int, *, count: bool = True, eps: float = 1e-5):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.mean = nnx.BatchStat(jnp.zeros((width,)))
        self.var = nnx.BatchStat(jnp.ones((width,)))
        self.num_batches_tracked = Buffer(jnp.zeros((), jnp.int32)) if count else None
        self.eps = eps
        self.training = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise (..., D) in x's dtype. In training, update the running statistics.

        Raises:
          UserError: in training, if the batch has one value per channel, so that the variance is undefined.
        """
        scale, bias = (one[...].astype(jnp.float32) for one in (self.scale, self.bias))
        if not self.training:
            mean, var = (one[...].astype(jnp.float32) for one in (self.mean, self.var))
            return _scaled(x, mean, scale * lax.rsqrt(var + self.eps), bias)
        values = x.size // x.shape[-1]
        if values < 2:
            raise UserError("batch norm in training needs more than one value a channel: give larger batches or images")
        found: Any = normalized(x, scale, bias, self.eps)
        y, mean, var = found
        for running, now in ((self.mean, mean), (self.var, var * (values / (values - 1)))):
            moved = MOMENTUM * running[...].astype(jnp.float32) + (1 - MOMENTUM) * now
            running[...] = moved.astype(running[...].dtype)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked[...] = self.num_batches_tracked[...] + 1
        return y


def _scaled(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array) -> jax.Array:
    """Return (x - mean) factor + bias of each channel, in x's dtype."""
    mean, factor, bias = (over_last_axis(one, x) for one in (mean, factor, bias))
    return ((x.astype(jnp.float32) - mean) * factor + bias).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalized(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise (..., D) with its own statistics; return it in x's dtype, its mean and its biased variance (D).

    The statistics have no gradients of their own. With z = (x - mean) / std over n values, the input's is
    scale / std (g - mean(g) - z mean(g z)): x alone is kept for it, where autodiff keeps x - mean too.
    """
    return _forward(x, scale, bias, eps)[0]


def _forward(x, scale, bias, eps):
    x32, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    mean = jnp.mean(x32, axis=axes)
    var = jnp.mean(jnp.square(x32 - over_last_axis(mean, x)), axis=axes)
    rstd = lax.rsqrt(var + eps)
    return (_scaled(x, mean, scale * rstd, bias), mean, var), (x, mean, rstd, scale)


def _backward(eps, residuals, cotangents):
    x, mean, rstd, scale = residuals
    g, axes, values = cotangents[0].astype(jnp.float32), tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    z = (x.astype(jnp.float32) - over_last_axis(mean, x)) * over_last_axis(rstd, x)
    dbias, dscale = jnp.sum(g, axis=axes), jnp.sum(g * z, axis=axes)
    centred = g - over_last_axis(dbias / values, x) - z * over_last_axis(dscale / values, x)
    return (over_last_axis(scale * rstd, x) * centred).astype(x.dtype), dscale, dbias


normalized.defvjp(_forward, _backward)


def norms(module: nnx.Module) -> Iterator[tuple[str, BatchNorm]]:
    """Iterate over the batch norms of a module, with their paths."""
    for path, part in nnx.iter_modules(module):
        if isinstance(part, BatchNorm):
            yield ".".join(map(str, path)), part


def set_training(module: nnx.Module, trained: Collection[str]) -> None:
    """Set each batch norm whose scale is trained to training mode, and all others to evaluation mode.

    A frozen batch norm normalises with its running statistics, which do not change.

    Args:
      module: bound inside the differentiated function; its statistics are read from it afterwards.
      trained: paths of the trained leaves.
    """
    for path, norm in norms(module):
        norm.training = f"{path}.scale" in trained


def checkpointed(block: nnx.Module, remat: Remat) -> Callable[..., jax.Array]:
    """Wrap `block` as `remat.repeated` does: recompute it in the backward pass, and update its statistics only once.

    The checkpointed function takes the block's arrays and returns the statistics with its value, so that no
    inner tracer leaks into the outer module.
    """
    skeleton, flat = split(block)

    @functools.partial(jax.checkpoint, policy=policy(remat))
    def run(flat, *args):
        inner = bind(skeleton, flat)
        value = inner(*args)
        return value, [_moving(norm) for _, norm in norms(inner)]

    def call(*args) -> jax.Array:
        value, moved = run(flat, *args)
        for (_, norm), arrays in zip(norms(block), moved, strict=True):
            for name, array in arrays.items():
                getattr(norm, name)[...] = array
        return value

    return call


def _moving(norm: BatchNorm) -> dict[str, jax.Array]:
    names = ("mean", "var") if norm.num_batches_tracked is None else ("mean", "var", "num_batches_tracked")
    return {name: getattr(norm, name)[...] for name in names} if norm.training else {}
