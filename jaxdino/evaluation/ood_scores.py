"""Scores that are low for images unlike those of training, from logits and features."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

NEIGHBOURS = 50
TINY = 1e-6


class Known(NamedTuple):
    """What the scores are fitted on: training features (M, D), labels int (M,), the head's kernel and bias."""

    features: np.ndarray
    labels: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray


Score = Callable[[Known, np.ndarray, np.ndarray], np.ndarray]
"""Function of (what is known, logits (N, C), features (N, D)) that returns (N,), higher for familiar images."""


def msp(known: Known, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the largest softmax probability. Source: Hendrycks and Gimpel (arXiv:1610.02136)."""
    return np.exp(logits.max(axis=1) - logsumexp(logits, axis=1))


def energy(known: Known, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return log sum exp of the logits. Source: Liu et al. (arXiv:2010.03759)."""
    return logsumexp(logits, axis=1)


def max_logit(known: Known, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the largest logit. Source: Hendrycks et al. (arXiv:1911.11132)."""
    return logits.max(axis=1)


def mahalanobis(known: Known, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return minus the squared distance to the nearest class mean, in the shared covariance.

    Source: Lee et al. (arXiv:1807.03888), with the features of one layer.
    """
    classes = np.unique(known.labels)
    train = known.features.astype(np.float64)
    means = np.stack([train[known.labels == one].mean(axis=0) for one in classes])
    centred = train - means[np.searchsorted(classes, known.labels)]
    whiten = _whitening(centred)
    far = (features.astype(np.float64) @ whiten)[:, None] - (means @ whiten)[None]
    return -np.square(far).sum(axis=2).min(axis=1)


def _whitening(centred: np.ndarray) -> np.ndarray:
    """Return the matrix (D, D) by which the covariance of rows (M, D) becomes the identity."""
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    return vectors / np.sqrt(np.maximum(values, TINY * values.max()))


def knn(known: Known, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return minus the distance to the k-th nearest training image, features of length 1; k is at most a tenth of them.

    Source: Sun et al. (arXiv:2204.06507).
    """
    k = max(1, min(NEIGHBOURS, len(known.features) // 10))
    bank, found = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), TINY) for x in (known.features, features))
    return np.concatenate(
        [
            -np.sqrt(np.maximum(2 - 2 * np.partition(part @ bank.T, -k, axis=1)[:, -k], 0))
            for part in np.array_split(found, max(1, len(found) // 512))
        ]
    )


def vim(known: Known, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the energy minus the virtual logit: what of the features lies outside of the main subspace, scaled.

    The subspace has 1,000 dimensions for 2,048 features or more, 512 for 768 or more, else half. Source: Wang et al.
    (arXiv:2203.10807).
    """
    width = known.features.shape[1]
    size = 1000 if width >= 2048 else 512 if width >= 768 else max(width // 2, 1)
    origin = -np.linalg.pinv(known.kernel.T.astype(np.float64)) @ known.bias
    train = known.features - origin
    _, vectors = np.linalg.eigh(train.T @ train)
    rest = vectors[:, : width - size]
    scale = (known.features @ known.kernel + known.bias).max(axis=1).mean()
    alpha = scale / max(np.linalg.norm(train @ rest, axis=1).mean(), TINY)
    return energy(known, logits, features) - alpha * np.linalg.norm((features - origin) @ rest, axis=1)


SCORES: dict[str, Score] = {
    "msp": msp,
    "energy": energy,
    "max_logit": max_logit,
    "mahalanobis": mahalanobis,
    "knn": knn,
    "vim": vim,
}
