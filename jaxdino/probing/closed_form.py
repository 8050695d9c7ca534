"""Linear heads in closed form, in float64 on the host: ridge regression and the nearest class mean."""

from collections.abc import Sequence

import numpy as np
from scipy import linalg

from jaxdino.core.bars import bar
from jaxdino.evals.linear_heads import Heads

CHUNK = 8192  # rows in float64 at a time
ABSENT = -1e6
"""Bias of a class without a training image: it is never the nearest."""


def ridge(x: np.ndarray, y: np.ndarray, alphas: Sequence[float], num_classes: int) -> Heads:
    """Fit targets of 1 for an image's classes and -1 for the others, with the penalty alpha on the kernel.

    One eigendecomposition of the D x D matrix serves all alphas.

    Args:
      x: (N, D). y: int32 (N,), or (N, C) of 0 and 1.

    Source: scikit-learn's RidgeClassifier, with its intercept.
    """
    width = x.shape[1]
    middle = x.mean(axis=0, dtype=np.float64)
    counts = y.sum(axis=0) if y.ndim == 2 else np.bincount(y, minlength=num_classes)
    target_mean = 2 * counts / len(x) - 1
    gram, cross = np.zeros((width, width)), np.zeros((width, num_classes))
    for first in bar(range(0, len(x), CHUNK), f"ridge regression of {len(x):,} rows", unit=f"x{CHUNK} rows"):
        part = x[first : first + CHUNK].astype(np.float64) - middle
        target = _targets(y[first : first + CHUNK], num_classes) - target_mean
        gram += part.T @ part
        cross += part.T @ target
    values, vectors = linalg.eigh(gram)
    turned, values = vectors.T @ cross, np.maximum(values, 0)
    kernels = [vectors @ (turned / (values + alpha)[:, None]) for alpha in alphas]
    biases = [target_mean - middle @ kernel for kernel in kernels]
    return Heads(np.stack(kernels, axis=2).astype(np.float32), np.stack(biases, axis=1).astype(np.float32))


def _targets(y: np.ndarray, num_classes: int) -> np.ndarray:
    there = y > 0.5 if y.ndim == 2 else y[:, None] == np.arange(num_classes)
    return np.where(there, 1.0, -1.0)


def nearest_mean(x: np.ndarray, y: np.ndarray, num_classes: int) -> Heads:
    """Return the head whose largest logit is the class with the nearest mean, by Euclidean distance.

    -|x - m|^2 = 2 m x - |m|^2 - |x|^2, and the last term is the same for all classes.
    """
    counts = np.bincount(y, minlength=num_classes)
    sums = np.zeros((num_classes, x.shape[1]))
    np.add.at(sums, y, x)
    means = sums / np.maximum(counts, 1)[:, None]
    bias = np.where(counts > 0, -np.square(means).sum(axis=1), ABSENT)
    return Heads((2 * means.T)[:, :, None].astype(np.float32), bias[:, None].astype(np.float32))
