"""Batch norm: running statistics in evaluation; in training, batch statistics that update the running ones."""

import functools
from collections.abc import Callable, Collection, Iterator

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
        x32 = x.astype(jnp.float32)
        mean, var = self._batch_statistics(x32) if self.training else (self.mean[...], self.var[...])
        factor = self.scale[...].astype(jnp.float32) * lax.rsqrt(var.astype(jnp.float32) + self.eps)
        y = (x32 - over_last_axis(mean.astype(jnp.float32), x)) * over_last_axis(factor, x)
        return (y + over_last_axis(self.bias[...].astype(jnp.float32), x)).astype(x.dtype)

    def _batch_statistics(self, x32: jax.Array) -> tuple[jax.Array, jax.Array]:
        axes = tuple(range(x32.ndim - 1))
        values = x32.size // x32.shape[-1]
        if values < 2:
            raise UserError("batch norm in training needs more than one value a channel: give larger batches or images")
        mean = jnp.mean(x32, axis=axes)
        var = jnp.mean(jnp.square(x32 - over_last_axis(mean, x32)), axis=axes)
        for running, now in ((self.mean, mean), (self.var, var * (values / (values - 1)))):
            moved = MOMENTUM * running[...].astype(jnp.float32) + (1 - MOMENTUM) * lax.stop_gradient(now)
            running[...] = moved.astype(running[...].dtype)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked[...] = self.num_batches_tracked[...] + 1
        return mean, var


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
