"""Clusters of images: k-means of their embeddings, normalised to length one."""

from typing import Any

import numpy as np

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.evals.knn import check_features

SMALL = 50_000  # images that k-means begins on
STARTS, ROUNDS = 4, 10  # beginnings, of which the best is kept; rounds on all images if they are more


def clusters(values: np.ndarray, count: int, seed: int) -> list[list[int]]:
    """Return the rows of each cluster, the one nearest to its centre first; the largest cluster first.

    By Lloyd's algorithm, the best of four beginnings; of more than `SMALL` images on so many, then ten rounds on all.

    Args:
      values: (N, D). count: the number of clusters. seed: of the beginnings.

    Raises:
      UserError: for fewer images than clusters, and embeddings that are not finite.
    """
    if not 1 <= count <= len(values):
        raise UserError(f"--clusters {count}: give a number from 1 to {len(values):,}, the number of images")
    values = check_features(values, "file")
    units = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    model = _fitted(units, count, seed)
    far = np.linalg.norm(units - model.cluster_centers_[model.labels_], axis=1)
    order = np.lexsort((far, model.labels_))
    parts = np.split(order, np.flatnonzero(np.diff(model.labels_[order])) + 1)
    return sorted((part.tolist() for part in parts), key=lambda part: (-len(part), part[0]))


def _fitted(units: np.ndarray, count: int, seed: int) -> Any:
    """Return scikit-learn's k-means of rows (N, D)."""
    from sklearn.cluster import KMeans

    some = units
    if len(units) > max(SMALL, count):
        rows = np.random.default_rng(seed).choice(len(units), max(SMALL, count), replace=False)
        some = units[np.sort(rows)]
    tried = bar(range(STARTS), f"{count:,} clusters", unit="start")
    models = [KMeans(count, n_init=1, random_state=(seed + start) % 2**32).fit(some) for start in tried]
    best = min(models, key=lambda model: model.inertia_)
    if some is units:
        return best
    for _ in bar(range(ROUNDS), f"{count:,} clusters of all images", unit="round"):
        best = KMeans(count, init=best.cluster_centers_, n_init=1, max_iter=1).fit(units)
    return best
