"""Linear probes of frozen features: train many heads in parallel, and choose the best without the test images."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.evals.knn import check_features, check_labels

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
WEIGHT_DECAYS = (0.0, 1e-3, 1e-2)
MOMENTUM = 0.9
COLUMNS = 8192  # heads x classes of one matmul; beyond this, heads are trained in groups
CHUNK = 64  # batches sent to the device at a time
ROWS = 4096  # rows evaluated at a time


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    steps: int | None = None,
    batch_size: int = 128,
    held_out: float = 0.2,
    seed: int = 0,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return the accuracy of a linear classifier on (N, D) features, trained on (M, D).

    A head for each pair of learning rate and weight decay is trained on a part of train; the one that is best on the
    rest of train is trained again on all of train, and evaluated once. Features are standardised with
    train's statistics, a step that a linear layer could do itself.

    Args:
      learning_rates: peaks for a batch of 256, scaled by batch_size / 256; cosine decay to 0.
      weight_decays: weight decay of the weights, not the biases.
      steps: number of SGD steps with momentum 0.9; by default 100 epochs, at least 2,500 and at most 12,500.
      held_out: share of each class of train used to choose the head.
      seed: seed of the initial weights, the order and the held-out rows.
      poll: called every few batches; an exception from it ends the computation.

    Returns:
      accuracy, held_out_accuracy (of the chosen head), learning_rate, weight_decay.

    Raises:
      UserError: for an empty set, widths or labels that do not match, features that are not finite, or a grid or share
        that leaves no rows to choose the head.

    Source: facebookresearch/dinov2 eval/linear.py for rates, SGD and longest run; there the test images choose.
    """
    train_x, x = check_features(train_features, "train"), check_features(features, "queries")
    train_y, y = (
        check_labels(train_labels, train_x, num_classes, "train"),
        check_labels(labels, x, num_classes, "queries"),
    )
    if train_x.shape[1] != x.shape[1]:
        raise UserError(f"features of train are {train_x.shape[1]} wide, those of the queries {x.shape[1]}")
    grid = np.array(list(itertools.product(learning_rates, weight_decays)), np.float32)
    if not len(grid) or grid.min() < 0 or batch_size < 1 or (steps is not None and steps < 1):
        raise UserError(
            "a probe needs learning rates and weight decays of at least 0, and steps and batches of at least 1"
        )
    steps = steps or int(np.clip(100 * len(train_x) // batch_size, 2500, 12_500))
    mean, deviation = train_x.mean(axis=0), train_x.std(axis=0)
    scale = 1 / np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-30), deviation, np.inf)
    train_x, x = (train_x - mean) * scale, (x - mean) * scale

    how = dict(num_classes=num_classes, steps=steps, batch_size=batch_size, seed=seed, poll=poll)
    train = functools.partial(_trained, **how)
    fit, choose = _parted(train_y, held_out, seed)
    per_group = max(1, COLUMNS // num_classes)
    scores = []
    for first in range(0, len(grid), per_group):
        heads = train(train_x[fit], train_y[fit], grid[first : first + per_group])
        scores += _accuracies(heads, train_x[choose], train_y[choose]).tolist()
    best = int(np.argmax(scores))
    (accuracy,) = _accuracies(train(train_x, train_y, grid[best : best + 1]), x, y)
    rate, decay = (float(f"{value:.6g}") for value in grid[best])
    found = {"accuracy": float(accuracy), "held_out_accuracy": scores[best]}
    return found | {"learning_rate": rate, "weight_decay": decay}


def _parted(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to train on and rows to choose by: `share` of each class, rounded, never a class's last row."""
    rng, chosen = np.random.default_rng([seed, 1]), []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: min(round(share * len(rows)), len(rows) - 1)])
    choose = np.sort(np.concatenate(chosen))
    if not 0 < share < 1 or not len(choose):
        raise UserError(
            f"held_out={share} of {len(labels)} training images, class by class, leaves none to choose a head by: "
            "give more images, or a share nearer to 0.5"
        )
    return np.setdiff1d(np.arange(len(labels)), choose), choose


def _trained(
    x, y, grid, *, num_classes: int, steps: int, batch_size: int, seed: int, poll: Callable[[], None] = lambda: None
) -> tuple[jax.Array, jax.Array]:
    """Train heads of the grid's rows (learning rate, weight decay): kernels (D, heads, classes), biases."""
    batch_size = min(batch_size, len(x))
    rng = np.random.default_rng([seed, 2])
    kernel = rng.normal(0, 0.01, (x.shape[1], 1, num_classes)).astype(np.float32)
    heads = (jnp.asarray(np.repeat(kernel, len(grid), axis=1)), jnp.zeros((len(grid), num_classes)))
    momentum = jax.tree.map(jnp.zeros_like, heads)
    rates, decays = jnp.asarray(grid[:, 0] * (batch_size / 256)), jnp.asarray(grid[:, 1])
    order = _order(len(x), batch_size, rng)
    for first in bar(range(0, steps, CHUNK), f"{len(grid)} linear classifiers", unit=f"x{CHUNK} steps"):
        poll()
        rows = np.stack(list(itertools.islice(order, min(CHUNK, steps - first))))
        ahead = 0.5 * (1 + np.cos(np.pi * (first + np.arange(len(rows))) / steps)).astype(np.float32)
        heads, momentum = _descend(heads, momentum, x[rows], y[rows], ahead, rates, decays)
    return heads


def _order(count: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Iterate endlessly over batches of rows, in a new order each epoch."""
    while True:
        order = rng.permutation(count)
        yield from (order[i : i + batch_size] for i in range(0, count - batch_size + 1, batch_size))


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _descend(heads, momentum, x_SxBxD, y_SxB, ahead_S, rates_H, decays_H):
    """Take S steps of SGD with momentum, as in torch, for all heads at once."""

    def loss(heads, x, y):
        log_p = jax.nn.log_softmax(_logits(heads, x))
        return -jnp.take_along_axis(log_p, y[:, None, None], axis=2).mean(axis=0).sum()  # heads are independent

    def step(carry, given):
        (kernel, bias), (kernel_m, bias_m) = carry
        x, y, ahead = given
        kernel_g, bias_g = jax.grad(loss)((kernel, bias), x, y)
        kernel_m = MOMENTUM * kernel_m + kernel_g + decays_H[None, :, None] * kernel
        bias_m = MOMENTUM * bias_m + bias_g
        rate = ahead * rates_H
        return ((kernel - rate[None, :, None] * kernel_m, bias - rate[:, None] * bias_m), (kernel_m, bias_m)), None

    return jax.lax.scan(step, (heads, momentum), (x_SxBxD, y_SxB, ahead_S))[0]


def _logits(heads: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """Map (B, D) to (B, heads, classes): all heads in one matmul."""
    kernel, bias = heads
    wide = jnp.matmul(x, kernel.reshape(len(kernel), -1), precision=jax.lax.Precision.HIGHEST)
    return wide.reshape(len(x), *bias.shape) + bias[None]


@jax.jit
def _right(heads, x, y):
    return (_logits(heads, x).argmax(axis=2) == y[:, None]).sum(axis=0)


def _accuracies(heads: tuple[jax.Array, jax.Array], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the accuracy of each head (heads,)."""
    right = [np.asarray(_right(heads, x[i : i + ROWS], y[i : i + ROWS])) for i in range(0, len(x), ROWS)]
    return np.sum(right, axis=0) / len(x)
