"""Probes that train nothing: k nearest neighbours, and few images of each class."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.evals.few_shot import check_shots
from jaxdino.evals.knn import TEMPERATURE, check_k, knn_accuracy, knn_predictions
from jaxdino.evals.linear_heads import right_of
from jaxdino.probing import intervals
from jaxdino.probing.closed_form import nearest_mean
from jaxdino.probing.sets import Rows, Sets


def knn(sets: Sets, counts: Sequence[int], num_classes: int) -> dict[str, Any]:
    """Choose k on the rows to choose by, and measure it; see `knn.knn_accuracy`.

    With folds, each fold's rows are compared with all others.

    Returns:
      input, settings, val, test, scores: {k: accuracy}.

    Raises:
      UserError: for a k above the number of training images.
    """
    for count in counts:
        check_k(count, len(sets.train))
    how: dict[str, Any] = dict(k=tuple(counts), num_classes=num_classes, temperature=TEMPERATURE)
    train, choose = sets.train, sets.choose
    if sets.fold_of is None:
        found = knn_predictions(train.x, train.y, choose.x, **how)
        right = {count: predicted == choose.y for count, predicted in found.items()}
    else:
        right = {count: np.zeros(len(choose), bool) for count in counts}
        for fold in range(sets.folds):
            bank, asked = sets.fold_of != fold, sets.fold_of[: len(choose)] == fold
            for count in counts:
                check_k(count, int(bank.sum()))
            found = knn_predictions(train.x[bank], train.y[bank], choose.x[asked], **how)
            for count, predicted in found.items():
                right[count][asked] = predicted == choose.y[asked]
    scores = {count: float(one.mean()) for count, one in right.items()}
    best = max(scores, key=lambda count: (scores[count], -count))
    measured = {"value": None, "n": 0, "interval": None, "reason": "there is no test split"}
    if sets.test is not None:
        how["k"] = (best,)
        predicted = knn_predictions(train.x, train.y, sets.test.x, **how)[best]
        measured = intervals.share(predicted == sets.test.y)
    about = {"input": sets.name, "settings": {"k": best}, "scores": scores}
    return about | {"val": intervals.share(right[best]), "test": measured}


def few_shot(
    sets: Sets, shots: Sequence[int], draws: int, num_classes: int, k: int, seed: int
) -> dict[int, dict[str, Any]]:
    """Measure the nearest class mean and k-NN with only n training images of each class, drawn many times.

    Nothing is chosen: the images of test are measured, or those of val without test.

    Returns:
      {n: {"nearest_mean", "knn": mean, std and interval over draws, "measured_on", "images"}}.

    Raises:
      UserError: for more images than the smallest class has.
    """
    bank = Rows(sets.train.x[: sets.images], sets.train.y[: sets.images])
    asked, name = (sets.choose, "val") if sets.test is None else (sets.test, "test")
    if sets.test is None and sets.fold_of is not None:
        raise UserError("--shots needs a test or val split to measure on; with --folds, a test split")
    check_shots(shots, bank.y, num_classes)
    places = [np.flatnonzero(bank.y == label) for label in range(num_classes)]
    found = {}
    for n in shots:
        rng, count = np.random.default_rng([seed, n]), min(k, n * num_classes)
        near, means = [], []
        for _ in range(draws):
            rows = np.concatenate([rng.choice(of_class, n, replace=False) for of_class in places])
            x, y = bank.x[rows], bank.y[rows]
            means.append(float(right_of(nearest_mean(x, y, num_classes), asked.x, asked.y).mean()))
            how: dict[str, Any] = dict(k=count, num_classes=num_classes, temperature=TEMPERATURE)
            near.append(knn_accuracy(x, y, asked.x, asked.y, **how)[count])
        of_draws = {"nearest_mean": intervals.spread(means, "draws"), "knn": intervals.spread(near, "draws")}
        found[n] = of_draws | {"measured_on": name, "images": len(asked)}
    return found
