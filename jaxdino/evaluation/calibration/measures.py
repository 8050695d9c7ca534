"""How well probabilities are calibrated: log loss, Brier score, expected calibration error, reliability."""

from typing import Any

import numpy as np

from jaxdino.core.intervals import wilson
from jaxdino.evaluation.figure import Figure
from jaxdino.evaluation.intervals import Resampling, bootstrap, of_bootstrap
from jaxdino.evaluation.resampled import joined, mean_of

BINS = 15
NAMES = {
    "nll": "log loss",
    "brier": "Brier score",
    "ece_width": f"ECE, {BINS} bins of equal width",
    "ece_mass": f"ECE, {BINS} bins of equal mass",
    "overconfidence": "confidence - accuracy",
}


def confidence(odds: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidences and whether they are right, (N, 1) of the most probable class; (N, C) for several classes.

    With several classes, each decision counts: its probability, and whether the image has the class.
    """
    if labels.ndim == 2:
        return odds, labels.astype(bool)
    return odds.max(axis=1, keepdims=True), (odds.argmax(axis=1) == labels).reshape(-1, 1)


def bins_of_width(sure: np.ndarray) -> np.ndarray:
    """Return the bin of each confidence, from 0; bins are [0, 1/15), [1/15, 2/15), ..., [14/15, 1]."""
    return np.minimum((sure * BINS).astype(int), BINS - 1)


def bins_of_mass(sure: np.ndarray) -> np.ndarray:
    """Return the bin of each confidence: the order of all of them divided into equal parts."""
    ranks = np.argsort(np.argsort(sure, axis=None, kind="stable"), kind="stable")
    return (ranks * BINS // sure.size).reshape(sure.shape)


def measures(odds: np.ndarray, labels: np.ndarray, how: Resampling) -> dict[str, Figure]:
    """Return the figures of `NAMES`. The bins stay those of the data in all resamples.

    Log loss takes probabilities below float64's eps as eps, as scikit-learn does; with several classes it and the Brier
    score are means over decisions. Brier score of one class an image: the sum of squares over the classes, 0 to 2.
    """
    n, rows = len(odds), np.arange(len(odds))
    eps = np.finfo(np.float64).eps
    clipped = np.clip(odds, eps, 1 - eps)
    if labels.ndim == 2:
        nll = -np.where(labels, np.log(clipped), np.log1p(-clipped)).mean(axis=1)
        brier = ((odds - labels) ** 2).mean(axis=1)
    else:
        nll = -np.log(clipped[rows, labels])
        brier = ((odds - np.eye(odds.shape[1])[labels]) ** 2).sum(axis=1)
    sure, right = confidence(odds, labels)
    gaps = {name: _by_bin(bins(sure), sure - right) for name, bins in BY.items()}

    def errors(counts: np.ndarray) -> dict[str, np.ndarray]:
        total = counts.sum(axis=1) * sure.shape[1]
        return {name: np.abs(counts @ gap).sum(axis=1) / total for name, gap in gaps.items()}

    each = {"nll": nll, "brier": brier, "overconfidence": (sure - right).mean(axis=1)}
    statistic = joined(mean_of(each), errors)
    point, spans = statistic(np.ones((1, n))), bootstrap(statistic, n, how)
    found = {}
    for name in NAMES:
        low, high = spans[name]
        found[name] = of_bootstrap(float(point[name][0]), n, (float(low), float(high)), how)
    return found


BY = {"ece_width": bins_of_width, "ece_mass": bins_of_mass}


def _by_bin(bins: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sums of each image's values in each bin, (N, BINS)."""
    found = np.zeros((len(values), BINS))
    np.add.at(found, (np.arange(len(values)).reshape(-1, 1), bins), values)
    return found


def reliability(odds: np.ndarray, labels: np.ndarray, how: Resampling) -> list[dict[str, Any]]:
    """Return {"confidence", "accuracy", "n", "low", "high"} of each bin of equal width that is not empty.

    The interval is Wilson's; None of images in groups, and of several decisions an image, which are not independent.
    """
    sure, right = confidence(odds, labels)
    bins, result = bins_of_width(sure), []
    alone = how.clusters is None and labels.ndim == 1
    for number in range(BINS):
        rows = bins == number
        if count := int(rows.sum()):
            found = {"confidence": float(sure[rows].mean()), "accuracy": float(right[rows].mean()), "n": count}
            ends = wilson(int(right[rows].sum()), count, how.level) if alone else (None, None)
            result.append(found | {"low": ends[0], "high": ends[1]})
    return result
