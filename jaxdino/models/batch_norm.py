"""Batch norm: running statistics in evaluation, the batch's own in training, which move the running ones."""

from collections.abc import Callable, Collection, Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxdino.core.errors import UserError
from jaxdino.core.params import Buffer, bind, split
from jaxdino.models.layers import over_last_axis

MOMENTUM = 0.9
"""Share of the running statistics that each batch keeps; torch's `momentum=0.1` is the other share."""


class BatchNorm(nnx.Module):
    """Batch norm over all axes but the last, statistics in float32.

    In evaluation, which is how a model begins, the running `mean` and `var` normalise. In training (see
    `set_training`) the batch's mean and biased variance do, and `mean`, `var` (unbiased, as torch has it) and the
    count move. Under a mesh the batch is the global batch: its mean over a sharded axis is one over all devices, what
    torch calls a synchronised batch norm. Examples of weight 0 count like the others. An exponential moving average of
    a classifier's weights is evaluated with these same running statistics; self-distillation's teacher has its own.

    Source: Ioffe and Szegedy 2015 (arXiv:1502.03167); eps and momentum are torch.nn.BatchNorm2d's defaults.

    Attributes:
      count: whether the checkpoint has `num_batches_tracked`, the number of training steps; nothing depends on it.
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
        """(..., D) -> (..., D) in x's dtype. In training, the statistics of this module move.

        Raises:
          UserError: in training, for a batch with one value a channel, which has no variance.
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
    """Every batch norm of a module with its path."""
    for path, part in nnx.iter_modules(module):
        if isinstance(part, BatchNorm):
            yield ".".join(map(str, path)), part


def set_training(module: nnx.Module, trained: Collection[str]) -> None:
    """Puts each batch norm whose scale is trained into training mode, and every other into evaluation mode.

    A frozen batch norm thus normalises with its running statistics, and they stay what they are.

    Args:
      module: bound inside the function that is differentiated; its statistics are read back from it afterwards.
      trained: paths of the trained leaves.
    """
    for path, norm in norms(module):
        norm.training = f"{path}.scale" in trained


def checkpointed(block: nnx.Module) -> Callable[..., jax.Array]:
    """`block` under `jax.checkpoint`: computed again in the backward pass, its statistics moved once.

    The checkpointed function takes the block's arrays and returns the statistics beside its value, so that nothing
    from inside it stays behind in a module outside.
    """
    skeleton, flat = split(block)

    @jax.checkpoint
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
