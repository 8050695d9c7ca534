"""Validation metrics from the logits of a whole split, gathered over the mesh and all processes."""

import warnings

import numpy as np
from sklearn import metrics as sk

from jaxdino.core.errors import UserError


def classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, balanced accuracy, macro F1 and log loss; top-5 accuracy where there are more than 5 classes.

    Args:
      logits: (N, C), padding already left out.
      labels: (N,) class indices. Classes without an example count neither in balanced accuracy nor in F1.

    Raises:
      UserError: if there is no example.
    """
    if not len(labels):
        raise UserError("no example to measure: the split is empty, or every image in it was skipped")
    logits = np.asarray(logits, np.float64)
    classes = np.arange(logits.shape[1])
    predicted = logits.argmax(1)
    found = {
        "accuracy": np.mean(predicted == labels),
        "balanced_accuracy": _mean_recall(predicted, labels),
        "macro_f1": sk.f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0),
        "loss": log_loss(logits, labels),
    }
    if len(classes) > 5:
        found["top5_accuracy"] = sk.top_k_accuracy_score(labels, logits, k=5, labels=classes)
    return {name: float(value) for name, value in found.items()}


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood, from the logits: nothing is clipped, and inf stays inf."""
    top = logits.max(1, keepdims=True)
    log_z = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    return float(np.mean(log_z - logits[np.arange(len(labels)), labels]))


def _mean_recall(predicted: np.ndarray, labels: np.ndarray) -> float:
    with warnings.catch_warnings():  # predictions of a class that the split lacks are no news
        warnings.simplefilter("ignore", UserWarning)
        return float(sk.balanced_accuracy_score(labels, predicted))
