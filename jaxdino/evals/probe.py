"""Linear probes of frozen features: train many heads in parallel, and choose the best without the test images."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.evals.knn import check_features, check_labels
from jaxdino.evals.linear_heads import Cells, Heads, default_steps, right_of, standardisation, train_heads

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
WEIGHT_DECAYS = (0.0, 1e-3, 1e-2)


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
    steps = steps or default_steps(len(train_x), batch_size)
    mean, scale = standardisation(train_x)
    train_x, x = (train_x - mean) * scale, (x - mean) * scale

    def train(x: np.ndarray, y: np.ndarray, cells: Cells) -> Heads:
        how: dict[str, Any] = dict(num_classes=num_classes, steps=steps, batch_size=batch_size)
        return train_heads(x, y, cells, **how, seed=seed, poll=poll)

    fit, choose = _parted(train_y, held_out, seed)
    cells = Cells.of(grid[:, 0], grid[:, 1], seeds=[seed] * len(grid))
    scores: list[float] = []
    for group in cells.groups(num_classes):
        heads = train(train_x[fit], train_y[fit], group)
        scores += right_of(heads, train_x[choose], train_y[choose]).mean(axis=0).tolist()
    best = int(np.argmax(scores))
    heads = train(train_x, train_y, Cells.of(grid[best, :1], grid[best, 1:], seeds=[seed]))
    (accuracy,) = right_of(heads, x, y).mean(axis=0)
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
