"""Evaluate classification with several labels: average precision, AUC, and F1 at a threshold for each class.

Functions import scikit-learn themselves: it takes a third of the time in which a command starts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from jaxdino.core.errors import UserError

UNKNOWN = 0.5  # the threshold of a class for which none can be chosen
THRESHOLD = "threshold/"  # the prefix of the classes' thresholds among the metrics


class MultilabelEvaluator:
    """Collect the logits and labels of a split. See `evaluator.Evaluator`.

    F1 is at the thresholds that are best for the split itself; `multilabel` takes those chosen on another one.

    Attributes:
      names: the metrics that a stage may monitor.
    """

    names = ("map", "macro_auc", "macro_f1", "micro_f1", "loss")

    def __init__(self, class_names: Sequence[str]):
        self.class_names = tuple(class_names)
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def update(self, found: Mapping[str, np.ndarray]) -> None:
        """Add a batch: "logits" and "labels", both (n, C), of the readable images."""
        self._logits.append(found["logits"])
        self._labels.append(found["labels"])

    @property
    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits and labels, both (N, C)."""
        return np.concatenate(self._logits), np.concatenate(self._labels)

    def thresholds(self) -> tuple[float, ...]:
        """Return the best threshold of each class on these images; see `best_threshold`."""
        logits, labels = self.answers
        return tuple(map(best_threshold, expit(np.asarray(logits, np.float64)).T, labels.T > 0.5))

    def compute(self) -> dict[str, float]:
        """Return {"map": ..., "threshold/<class>": ...}; see `multilabel` and `thresholds`."""
        found = dict(zip(self.class_names, self.thresholds(), strict=True))
        thresholds = {THRESHOLD + name: value for name, value in found.items()}
        return multilabel(*self.answers, tuple(found.values())) | thresholds


def multilabel(logits: np.ndarray, labels: np.ndarray, thresholds: Sequence[float]) -> dict[str, float]:
    """Compute mean average precision, macro AUC, macro and micro F1, and the loss.

    Args:
      logits: (N, C), without padding.
      labels: (N, C), 0 or 1.
      thresholds: probability from which an image has the class, for each class.

    Returns:
      map and macro_f1: means over the classes that an image has. macro_auc: mean over those that some images have and
      others do not; it is left out if there is none. micro_f1: of all decisions together. loss: binary cross entropy.

    Raises:
      UserError: if there is no example, or no image has a class.
    """
    found = per_class(logits, labels, thresholds, [str(label) for label in range(labels.shape[1])])
    if not any(one["images"] for one in found.values()):
        raise UserError("there is nothing to evaluate: no image of the split, or none that can be read, has a class")
    means = {name: [one[key] for one in found.values() if one[key] is not None] for name, key in MEANS.items()}
    right = labels > 0.5
    given = expit(np.asarray(logits, np.float64)) >= np.asarray(thresholds)
    hits = np.sum(right & given)
    logits = np.asarray(logits, np.float64)
    return {
        **{name: float(np.mean(values)) for name, values in means.items() if values},
        "micro_f1": float(2 * hits / (np.sum(right) + np.sum(given))),
        "loss": float(np.mean(np.logaddexp(0, logits) - logits * labels)),
    }


MEANS = {"map": "average_precision", "macro_auc": "auc", "macro_f1": "f1"}
"""Means over classes -> the values in `per_class`."""


def per_class(
    logits: np.ndarray, labels: np.ndarray, thresholds: Sequence[float], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return {class: {"average_precision", "auc", "f1", "precision", "recall", "threshold", "images"}}.

    The arguments are those of `multilabel`. Images are ranked by their logits: probabilities of large ones are all 1.
    Values are None where they are not defined: all of a class without images,
    AUC of a class that every image has, and precision of one that is never predicted.
    """
    from sklearn import metrics as sk

    ranks, right, found = np.asarray(logits, np.float64), labels > 0.5, {}
    for name, rank, there, threshold in zip(names, ranks.T, right.T, thresholds, strict=True):
        given, images = expit(rank) >= threshold, int(np.sum(there))
        hits = int(np.sum(given & there))
        found[name] = {
            "average_precision": float(sk.average_precision_score(there, rank)) if images else None,
            "auc": float(sk.roc_auc_score(there, rank)) if 0 < images < len(there) else None,
            "f1": 2 * hits / int(np.sum(given) + images) if images else None,
            "precision": hits / int(np.sum(given)) if images and np.any(given) else None,
            "recall": hits / images if images else None,
            "threshold": float(threshold),
            "images": images,
        }
    return found


def best_threshold(scores: np.ndarray, there: np.ndarray) -> float:
    """Return the threshold with the largest F1: the middle between two neighbouring scores, or half of the lowest one.

    Of several with the same F1, the highest. 0.5 without an image that has the class.

    Args:
      scores: (N,) probabilities. there: bool (N,), whether each image has the class.

    Source: Lipton, Elkan, Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure" (arXiv:1402.1892):
    the threshold is chosen for each class on held-out data; only the N scores can be optimal. The middle is what
    scikit-learn's decision trees take between two values, so that small changes of the scores change nothing.
    """
    if not np.any(there):
        return UNKNOWN
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(there[order])
    below = np.append(scores[1:], 0.0)
    f1 = np.where(scores > below, 2 * hits / (np.arange(1, len(scores) + 1) + np.sum(there)), -1.0)
    best = int(np.argmax(f1))
    middle = (scores[best] + below[best]) / 2
    return float(middle if middle > below[best] else scores[best])
