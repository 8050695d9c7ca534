"""Train many linear heads on the same features at once, by SGD: all heads are one matmul, and share their minibatches.

The heads may differ in learning rate, weight decay, label smoothing, initial weights and fold. Their axis is the last
one, so that softmax and its gradient run along all heads of a class.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core.bars import bar
from jaxdino.core.processor import sums_on_all_cores

MOMENTUM = 0.9
COLUMNS = 8192  # heads x classes of one matmul; beyond this, heads are trained in groups
CHUNK = 64  # steps compiled as one program
ROWS = 4096  # rows evaluated at a time
RESIDENT = 4 << 30
"""Bytes of features that stay on the device; of more, each chunk's minibatches are sent from the host."""
NO_FOLD = -1


class Heads(NamedTuple):
    """H linear heads: kernel (D, C, H) and bias (C, H)."""

    kernel: jax.Array | np.ndarray
    bias: jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Cells:
    """What distinguishes H heads, an entry each.

    Attributes:
      rates: peak learning rates for a batch of 256, scaled by batch_size / 256. decays: weight decay of the kernel.
      smoothing: label smoothing, 0 for none. seeds: of the initial weights.
      folds: the fold of the rows that the head does not train on, or `NO_FOLD`.
    """

    rates: np.ndarray
    decays: np.ndarray
    smoothing: np.ndarray
    seeds: np.ndarray
    folds: np.ndarray

    @classmethod
    def of(
        cls,
        rates: Sequence[float] | np.ndarray,
        decays: Sequence[float] | np.ndarray,
        smoothing: Sequence[float] | None = None,
        seeds: Sequence[int] | None = None,
        folds: Sequence[int] | None = None,
    ) -> "Cells":
        """Return cells; without smoothing 0, without seeds 0, without folds `NO_FOLD`."""
        count = len(rates)
        floats = [np.asarray(one, np.float32) for one in (rates, decays, smoothing or [0.0] * count)]
        return cls(*floats, *(np.asarray(one, np.int32) for one in (seeds or [0] * count, folds or [NO_FOLD] * count)))

    def __len__(self) -> int:
        return len(self.rates)

    def groups(self, num_classes: int) -> Iterator["Cells"]:
        """Yield groups whose heads together have at most `COLUMNS` columns."""
        size = max(1, COLUMNS // num_classes)
        for first in range(0, len(self), size):
            fields = {field.name: getattr(self, field.name)[first : first + size] for field in dataclasses.fields(self)}
            yield Cells(**fields)


def train_heads(
    x: np.ndarray,
    y: np.ndarray,
    cells: Cells,
    *,
    num_classes: int,
    steps: int,
    batch_size: int,
    seed: int = 0,
    fold_of: np.ndarray | None = None,
    poll: Callable[[], None] = lambda: None,
) -> Heads:
    """Train the heads of one group by SGD with momentum 0.9 and a cosine decay to 0, as torch does one by one.

    Args:
      x: standardised features float32 (N, D), on the host or a device.
      y: classes int32 (N,), for cross entropy; or float32 (N, C), for binary cross entropy of each class.
      steps: number of minibatches. seed: of their order, the same for all heads.
      fold_of: the fold of each row, int32 (N,), for heads with a fold.
      poll: called every few steps; an exception from it ends the training.
    """
    batch_size = min(batch_size, len(x))
    order = _order(len(x), batch_size, _initial_rng(seed, x.shape[1], num_classes)[1])
    heads = _initial(cells, x.shape[1], num_classes)
    momentum = jax.tree.map(jnp.zeros_like, heads)
    how = {
        "rates": jnp.asarray(cells.rates * (batch_size / 256)),
        "decays": jnp.asarray(cells.decays),
        "smoothing": jnp.asarray(cells.smoothing) if cells.smoothing.any() else None,
        "folds": None if fold_of is None else jnp.asarray(cells.folds),
    }
    table = _Table(x, y, fold_of)
    for first in bar(range(0, steps, CHUNK), f"{len(cells)} linear heads", unit=f"x{CHUNK} steps"):
        poll()
        rows = np.stack(list(itertools.islice(order, min(CHUNK, steps - first)))).astype(np.int32)
        ahead = 0.5 * (1 + np.cos(np.pi * (first + np.arange(len(rows))) / steps)).astype(np.float32)
        heads, momentum = _program()(heads, momentum, *table.batches(rows), ahead, how)
        jax.block_until_ready(heads)  # or the bar would count what is still to be computed
    return heads


class _Table:
    """Features, classes and folds of all rows, on the device if they fit."""

    def __init__(self, x: np.ndarray, y: np.ndarray, fold_of: np.ndarray | None):
        resident = x.nbytes <= RESIDENT
        self.resident, put = resident, jnp.asarray if resident else np.asarray
        self.arrays = tuple(None if one is None else put(one) for one in (x, y, fold_of))

    def batches(self, rows_SxB: np.ndarray) -> tuple:
        """Return (features, classes, folds) and the rows of each batch in them."""
        if self.resident:
            return (*self.arrays, rows_SxB)
        chosen = [None if one is None else one[rows_SxB.ravel()] for one in self.arrays]
        return (*chosen, np.arange(rows_SxB.size, dtype=np.int32).reshape(rows_SxB.shape))


def _initial_rng(seed: int, width: int, num_classes: int) -> tuple[np.ndarray, np.random.Generator]:
    """Return an initial kernel (D, C) and the generator after it was drawn."""
    rng = np.random.default_rng([seed, 2])
    return rng.normal(0, 0.01, (width, num_classes)).astype(np.float32), rng


def _initial(cells: Cells, width: int, num_classes: int) -> Heads:
    drawn = {seed: _initial_rng(seed, width, num_classes)[0] for seed in np.unique(cells.seeds).tolist()}
    kernel = np.stack([drawn[seed] for seed in cells.seeds.tolist()], axis=2)
    return Heads(jnp.asarray(kernel), jnp.zeros((num_classes, len(cells))))


def _order(count: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Iterate endlessly over batches of rows, in a new order each epoch."""
    while True:
        order = rng.permutation(count)
        yield from (order[i : i + batch_size] for i in range(0, count - batch_size + 1, batch_size))


@functools.cache
def _program():
    """Return `_descend` as a program."""
    return jax.jit(_descend, donate_argnums=(0, 1), compiler_options=sums_on_all_cores(jax.default_backend()))


def _descend(heads, momentum, x_NxD, y_N, fold_N, rows_SxB, ahead_S, how):
    """Take S steps of SGD with momentum, as in torch, for all heads at once."""

    def step(carry, given):
        heads, momentum = carry
        rows, ahead = given
        x = x_NxD[rows]
        errors_BxCxH = _errors(_logits(heads, x), y_N[rows], how["smoothing"]) * _weights(fold_N, rows, how["folds"])
        errors_BxCH = errors_BxCxH.reshape(len(x), -1)
        kernel_g = _matmul(x.T, errors_BxCH).reshape(heads.kernel.shape)
        # A product as well: XLA would compute the errors again in a sum.
        bias_g = _matmul(jnp.ones((1, len(x))), errors_BxCH).reshape(heads.bias.shape)
        kernel_m = MOMENTUM * momentum.kernel + (kernel_g + how["decays"][None, None] * heads.kernel)
        bias_m = MOMENTUM * momentum.bias + bias_g
        rate = ahead * how["rates"]
        heads = Heads(heads.kernel - rate[None, None] * kernel_m, heads.bias - rate[None] * bias_m)
        return (heads, Heads(kernel_m, bias_m)), None

    return jax.lax.scan(step, (heads, momentum), (rows_SxB, ahead_S))[0]


def _errors(logits_BxCxH, y, smoothing_H):
    """Return the gradient of the summed loss by the logits: of cross entropy, or of each class's binary one / C."""
    classes = logits_BxCxH.shape[1]
    several = y.ndim == 2
    right = y if several else (y[:, None] == jnp.arange(classes)[None]).astype(jnp.float32)
    right_BxCxH = right[:, :, None]
    if smoothing_H is not None:
        even = 0.5 if several else 1 / classes
        right_BxCxH = right_BxCxH * (1 - smoothing_H)[None, None] + (smoothing_H * even)[None, None]
    if several:
        return (jax.nn.sigmoid(logits_BxCxH) - right_BxCxH) / classes
    return jax.nn.softmax(logits_BxCxH, axis=1) - right_BxCxH


def _weights(fold_N, rows, folds_H):
    """Return what each row counts for each head, (B, 1, H): 0 for the rows of its fold; or one number for all."""
    if folds_H is None:
        return 1 / len(rows)
    trained_on = (fold_N[rows][:, None] != folds_H[None]).astype(jnp.float32)
    return (trained_on / jnp.maximum(trained_on.sum(axis=0), 1)[None])[:, None]


def _matmul(a, b):
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _logits(heads: Heads, x: jax.Array) -> jax.Array:
    """Map (B, D) to (B, C, H): all heads in one matmul."""
    return _matmul(x, heads.kernel.reshape(len(heads.kernel), -1)).reshape(len(x), *heads.bias.shape) + heads.bias[None]


logits_of = jax.jit(_logits)


@jax.jit
def _right(heads, x, y):
    """Return whether each head is right about each row (B, H); a head that is not finite never is."""
    logits = _logits(heads, x)
    return (logits.argmax(axis=1) == y[:, None]) & jnp.isfinite(logits).all(axis=1)


def right_of(heads: Heads, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return whether each head classifies each row as its class: bool (N, H)."""
    parts = range(0, len(x), ROWS)
    return np.concatenate([np.asarray(_right(heads, x[i : i + ROWS], y[i : i + ROWS])) for i in parts])


def standardisation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (D,) of rows (N, D) and what to multiply by, 1 / deviation; 0 for a feature that never moves."""
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    return mean, 1 / np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-30), deviation, np.inf)


def default_steps(rows: int, batch_size: int) -> int:
    """Return the steps of 100 epochs, at least 2,500 and at most 12,500."""
    return int(np.clip(100 * rows // batch_size, 2500, 12_500))
