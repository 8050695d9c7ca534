"""k-NN accuracy with few labelled images per class."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.evals.knn import TEMPERATURE, knn_accuracy

DRAWS = 10


def few_shot_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    shots: Sequence[int],
    num_classes: int,
    k: int = 20,
    temperature: float = TEMPERATURE,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[int, dict[str, float]]:
    """Return {n: {"mean", "std"}} of `knn.knn_accuracy` over random banks of n rows per class.

    Args:
      train_features (M, D), train_labels (M,): rows for the banks. features (N, D), labels (N,): the queries.
      shots: the numbers n. k: neighbours, at most the size of a bank. draws: banks per n; `std` is that of one draw.
      seed: the same seed draws the same banks for all compared features.

    Raises:
      UserError: as `check_shots` and `knn.knn_accuracy`.
    """
    check_shots(shots, train_labels, num_classes)
    places = [np.flatnonzero(train_labels == label) for label in range(num_classes)]
    found = {}
    for n in shots:
        rng, count = np.random.default_rng([seed, n]), min(k, n * num_classes)
        how: dict[str, Any] = dict(k=count, temperature=temperature, num_classes=num_classes)
        accuracies = []
        for _ in range(draws):
            bank = np.concatenate([rng.choice(rows, n, replace=False) for rows in places])
            accuracies.append(knn_accuracy(train_features[bank], train_labels[bank], features, labels, **how)[count])
        found[n] = {"mean": float(np.mean(accuracies)), "std": float(np.std(accuracies))}
    return found


def check_shots(shots: Sequence[int], labels: np.ndarray, num_classes: int) -> None:
    """Raise UserError unless each class has enough rows."""
    fewest = int(np.bincount(labels, minlength=num_classes).min())
    for n in shots:
        if not 1 <= n <= fewest:
            raise UserError(
                f"shots={n}: the smallest class of train has {fewest} images: give a number from 1 to {fewest}"
            )
