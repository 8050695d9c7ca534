"""Clusters of images: k-means of their embeddings, normalised to length one."""

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.evals.knn import check_features

SMALL = 50_000  # images that k-means sees whole in every iteration


def clusters(values: np.ndarray, count: int, seed: int) -> list[list[int]]:
    """Return the rows of each cluster, the one nearest to its centre first; the largest cluster first.

    Up to `SMALL` images by Lloyd's algorithm, the best of four beginnings; above by mini-batches.

    Args:
      values: (N, D). count: the number of clusters. seed: of the beginnings.

    Raises:
      UserError: for fewer images than clusters, and embeddings that are not finite.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if not 1 <= count <= len(values):
        raise UserError(f"--clusters {count}: give a number from 1 to {len(values):,}, the number of images")
    values = check_features(values, "file")
    units = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    kind = KMeans if len(units) <= SMALL else MiniBatchKMeans
    model = kind(count, n_init=4, random_state=seed).fit(units)
    far = np.linalg.norm(units - model.cluster_centers_[model.labels_], axis=1)
    order = np.lexsort((far, model.labels_))
    parts = np.split(order, np.flatnonzero(np.diff(model.labels_[order])) + 1)
    return sorted((part.tolist() for part in parts), key=lambda part: (-len(part), part[0]))
