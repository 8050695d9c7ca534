"""Metrics of many resamples at once: numpy on the counts of images, equal to scikit-learn's where all counts are 1."""

from collections.abc import Callable

import numpy as np
from scipy import sparse

Values = dict[str, np.ndarray]


def times(counts: np.ndarray, matrix: sparse.csr_array) -> np.ndarray:
    """Return counts (R, N) @ matrix (N, C), dense."""
    return np.asarray((matrix.T @ counts.T).T)


def _divided(above: np.ndarray, below: np.ndarray, otherwise: float) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(above), otherwise, np.float64), where=below != 0)


class Decisions:
    """Metrics of decisions: which classes each image has, and which it is given.

    A single label is one class of each. Means over classes are over those that an image of the resample has; precision
    of a class that is never given is 0 there.

    Args:
      there, given: bool (N, C).
    """

    def __init__(self, there: np.ndarray, given: np.ndarray, several: bool):
        self.several = several
        self._both, self._there, self._given = (
            sparse.csr_array(matrix.astype(np.float64)) for matrix in (there & given, there, given)
        )
        self._exact = (there == given).all(axis=1).astype(np.float64)

    def __call__(self, counts: np.ndarray) -> Values:
        """Return {name: (R,)} and, under "class/...", (R, C)."""
        n = counts.sum(axis=1)
        hits, have, said = (times(counts, matrix) for matrix in (self._both, self._there, self._given))
        recall = _divided(hits, have, np.nan)
        precision = _divided(hits, said, np.nan)
        f1 = np.where(have > 0, _divided(2 * hits, have + said, np.nan), np.nan)
        known, total = have > 0, have.sum(axis=1)
        all_hits, all_said = hits.sum(axis=1), said.sum(axis=1)
        kinds = {"precision": np.where(np.isnan(precision), 0.0, precision), "recall": recall, "f1": f1}
        micro = {"precision": _divided(all_hits, all_said, 0.0), "recall": _divided(all_hits, total, np.nan)}
        micro["f1"] = _divided(2 * all_hits, all_said + total, np.nan)
        found: Values = {"class/precision": precision, "class/recall": recall, "class/f1": f1}
        for kind, values in kinds.items():
            zeroed = np.where(known, np.nan_to_num(values), 0.0)
            found[f"macro_{kind}"] = _divided(zeroed.sum(axis=1), known.sum(axis=1).astype(float), np.nan)
            found[f"micro_{kind}"] = micro[kind]
            found[f"weighted_{kind}"] = _divided((zeroed * have).sum(axis=1), total, np.nan)
        sick = n.reshape(-1, 1) - have
        found["class/specificity"] = _divided(sick - (said - hits), sick, np.nan)
        found["macro_specificity"] = _mean(found["class/specificity"])
        found["accuracy"] = counts @ self._exact / n
        if self.several:
            right = 1 - (have + said - 2 * hits).sum(axis=1) / (n * have.shape[1])
            kappa, matthews = _agreement(hits, have, said, n.reshape(-1, 1))
            return found | {
                "decision_accuracy": right,
                "class/kappa": kappa,
                "class/matthews": matthews,
                "kappa": _mean(kappa),
                "matthews": _mean(matthews),
            }
        chance = (have * said).sum(axis=1)
        covariance = n * all_hits - chance
        spread = (n**2 - (said**2).sum(axis=1)) * (n**2 - (have**2).sum(axis=1))
        found["kappa"] = _divided(covariance, n**2 - chance, np.nan)
        found["matthews"] = _divided(covariance, np.sqrt(np.maximum(spread, 0)), 0.0)
        return found | {"balanced_accuracy": found["macro_recall"]}


def _agreement(hits: np.ndarray, have: np.ndarray, said: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return kappa and Matthews' correlation of each class, (R, C); nan where all images have it, or none."""
    covariance = n * hits - have * said
    known = (have > 0) & (have < n)
    spread = have * (n - have) * said * (n - said)
    matthews = np.where(known, _divided(covariance, np.sqrt(np.maximum(spread, 0)), 0.0), np.nan)
    chance = have * said + (n - have) * (n - said)
    return np.where(known, _divided(2 * covariance, n**2 - chance, np.nan), np.nan), matthews


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over classes (R, C) -> (R,), without those that are nan."""
    known = ~np.isnan(values)
    return _divided(np.where(known, values, 0).sum(axis=1), known.sum(axis=1).astype(float), np.nan)


class Ranking:
    """Areas under the ROC and the precision-recall curves of each class, and their means over classes.

    Args:
      there: bool (N, C). scores: (N, C), higher for images that have the class; ties count half.

    Source: Fawcett, An introduction to ROC analysis (2006), for the areas; average precision as in scikit-learn.
    """

    def __init__(self, there: np.ndarray, scores: np.ndarray):
        self._classes = [_ordered(column, score) for column, score in zip(there.T, scores.T, strict=True)]

    def __call__(self, counts: np.ndarray) -> Values:
        """Return {"class/auc", "class/average_precision": (R, C), "macro_auc", "map": (R,)}."""
        areas = [_areas(counts, *one) for one in self._classes]
        auc, precision = (np.stack(parts, axis=1) for parts in zip(*areas, strict=True))
        return {
            "class/auc": auc,
            "class/average_precision": precision,
            "macro_auc": _mean(auc),
            "map": _mean(precision),
        }


def _ordered(there: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the order of falling scores, who has the class in it, and where each image's ties begin and end."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    new = np.append(True, ranked[1:] != ranked[:-1])
    first = np.flatnonzero(new)
    ends = np.append(first[1:], len(ranked))
    group = np.cumsum(new) - 1
    return order, there[order], first[group], ends[group]


def _areas(
    counts: np.ndarray, order: np.ndarray, there: np.ndarray, first: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (R,) areas under the ROC curve and average precisions of one class."""
    drawn = counts[:, order]
    hits, misses = drawn * there, drawn * ~there
    above = np.zeros((len(counts), len(order) + 1))
    np.cumsum(misses, axis=1, out=above[:, 1:])
    positives, negatives = hits.sum(axis=1), above[:, -1]
    worse = negatives.reshape(-1, 1) - (above[:, first] + above[:, ends]) / 2
    auc = _divided((hits * worse).sum(axis=1), positives * negatives, np.nan)
    found = np.zeros_like(above)
    np.cumsum(hits, axis=1, out=found[:, 1:])
    precision = _divided(found[:, ends], found[:, ends] + above[:, ends], 0.0)
    return auc, _divided((hits * precision).sum(axis=1), positives, np.nan)


def mean_of(values: dict[str, np.ndarray]) -> Callable[[np.ndarray], Values]:
    """Return the statistic that averages values of each image, {name: (N,)}."""
    return lambda counts: {name: counts @ one / counts.sum(axis=1) for name, one in values.items()}


def joined(*statistics: Callable[[np.ndarray], Values]) -> Callable[[np.ndarray], Values]:
    """Return the statistic that has the values of several."""

    def all_of(counts: np.ndarray) -> Values:
        return {name: values for one in statistics for name, values in one(counts).items()}

    return all_of
