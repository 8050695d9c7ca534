"""How far a window of images is from a reference: population stability index and maximum mean discrepancy.

Sources: the population stability index as in Yurdakul 2018 (Statistical Properties of the Population Stability Index,
section 2), the symmetric Kullback-Leibler divergence of binned shares; Gretton et al. 2012 (A Kernel Two-Sample Test),
lemma 6, the unbiased estimate of MMD^2, with a Gaussian kernel of the median distance (section 8).
"""

from collections.abc import Sequence

import numpy as np

BINS = 10
LEAST = 0.5
"""Images added to each bin, so that an empty one does not make the index infinite."""


def edges_of(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Return the inner edges of bins that hold equal shares of the values (n,); fewer if values are equal."""
    return np.unique(np.quantile(values, np.arange(1, bins) / bins))


def psi(reference: Sequence[int] | np.ndarray, window: Sequence[int] | np.ndarray) -> float:
    """Return the population stability index of two histograms of the same bins."""
    shares = []
    for counts in (reference, window):
        smoothed = np.asarray(counts, np.float64) + LEAST
        shares.append(smoothed / smoothed.sum())
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the squared distance of each row of (n, D) to each of (m, D)."""
    found = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.maximum(found, 0)


def bandwidth(features: np.ndarray) -> float:
    """Return the median squared distance of pairs of rows (n, D): the scale of the kernel."""
    found = squared_distances(features, features)[np.triu_indices(len(features), 1)]
    return float(max(np.median(found), 1e-12))


def mmd2(a: np.ndarray, b: np.ndarray, scale: float, within_a: float | None = None) -> float:
    """Return the unbiased estimate of MMD^2 between two sets of features (n, D) and (m, D); it may be negative.

    Args:
      scale: the kernel is exp(-squared distance / scale).
      within_a: `within` of `a`, if it is known already.
    """
    across = np.exp(-squared_distances(a, b) / scale).mean()
    return float((within(a, scale) if within_a is None else within_a) + within(b, scale) - 2 * across)


def within(a: np.ndarray, scale: float) -> float:
    """Return the mean kernel value of different rows of a set."""
    n = len(a)
    return float((np.exp(-squared_distances(a, a) / scale).sum() - n) / (n * (n - 1)))
