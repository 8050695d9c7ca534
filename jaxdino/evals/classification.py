"""Evaluate classification: metrics of a whole split from its logits and labels.

Functions import scikit-learn themselves: it takes a third of the time in which a command starts.
"""

import csv
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError


class ClassificationEvaluator:
    """Collect the logits and labels of a split. See `evaluator.Evaluator`."""

    def __init__(self, class_names: Sequence[str]):
        self.class_names = tuple(class_names)
        names = ("accuracy", "balanced_accuracy", "macro_f1", "loss", "top5_accuracy")
        self.names = names if len(self.class_names) > 5 else names[:-1]
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._indices: list[np.ndarray] = []

    def update(self, found: Mapping[str, np.ndarray]) -> None:
        """Add a batch: "logits" (n, C), "label" (n,) and "index" (n,) of the readable images."""
        self._logits.append(found["logits"])
        self._labels.append(found["label"])
        self._indices.append(found["index"])

    @property
    def answers(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits (N, C) and labels (N,)."""
        return np.concatenate(self._logits), np.concatenate(self._labels)

    @property
    def indices(self) -> np.ndarray:
        """The number of each image in its split (N,), in the order of `answers`."""
        return np.concatenate(self._indices)

    def compute(self) -> dict[str, float]:
        """Return {"accuracy": ...}; see `classification`."""
        return classification(*self.answers)


def classification(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute accuracy, balanced accuracy, macro F1 and log loss; with more than 5 classes also top-5 accuracy.

    Args:
      logits: (N, C), without padding.
      labels: (N,) class indices. Balanced accuracy and F1 ignore classes without an example.

    Raises:
      UserError: if there is no example.
    """
    from sklearn import metrics as sk

    if not len(labels):
        raise UserError("there are no examples to evaluate: the split is empty, or every image in it was skipped")
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


def per_class(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return {class: {"accuracy", "precision", "f1", "images"}}. Accuracy is recall: the share of its images found.

    Accuracy and F1 are None for a class without images; precision is None for a class that is never predicted.
    """
    from sklearn import metrics as sk

    classes, predicted = np.arange(len(names)), logits.argmax(1)
    scores = sk.precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=np.nan)
    found = {}
    for name, precision, recall, f1, images in zip(names, *scores, strict=True):
        numbers = {"accuracy": recall, "precision": precision, "f1": f1 if images else np.nan}
        found[name] = {key: None if np.isnan(value) else float(value) for key, value in numbers.items()}
        found[name]["images"] = int(images)
    return found


def write_confusion(file: Path, logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """Write the confusion matrix as CSV: counts, with a row per true class and a column per predicted class."""
    from sklearn import metrics as sk

    counts = sk.confusion_matrix(labels, logits.argmax(1), labels=np.arange(len(names)))
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["true \\ predicted", *names])
        writer.writerows([name, *row] for name, row in zip(names, counts.tolist(), strict=True))


def most_frequent(train: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return the most frequent training class, and the metrics on `labels` of always predicting it."""
    label = int(np.bincount(train).argmax())
    predicted = np.full_like(labels, label)
    accuracy = float(np.mean(predicted == labels))
    return {"class": names[label], "accuracy": accuracy, "balanced_accuracy": _mean_recall(predicted, labels)}


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Compute the mean negative log-likelihood from logits. Nothing is clipped: inf stays inf."""
    return float(np.mean(losses(logits, labels)))


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute the negative log-likelihood of each row of logits, (N,)."""
    top = logits.max(1, keepdims=True)
    log_z = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    return log_z - logits[np.arange(len(labels)), labels]


def _mean_recall(predicted: np.ndarray, labels: np.ndarray) -> float:
    from sklearn import metrics as sk

    with warnings.catch_warnings():  # scikit-learn warns about predicted classes that the split does not contain
        warnings.simplefilter("ignore", UserWarning)
        return float(sk.balanced_accuracy_score(labels, predicted))
