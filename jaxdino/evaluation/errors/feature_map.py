"""A map of the features in two dimensions: principal components, then t-SNE.

Source: van der Maaten and Hinton, Visualizing Data using t-SNE (JMLR 2008); scikit-learn's.
"""

import numpy as np

MOST = 2000
"""Images on the map: of more, these many are drawn at random."""
FEWEST = 10
COMPONENTS = 50
PERPLEXITY = 30.0


def drawn_rows(count: int, seed: int) -> np.ndarray:
    """Return the images on the map: all, or `MOST` of them drawn with a seed, in order."""
    if count <= MOST:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, MOST, replace=False))


def why_not(features: np.ndarray) -> str:
    """Return why there is no map of features (N, D); "" if there is one."""
    if len(features) < FEWEST:
        return f"a map needs {FEWEST} images"
    return "" if np.ptp(features, axis=0).any() else "all features are the same"


def places(features: np.ndarray, seed: int) -> np.ndarray:
    """Return float64 (N, 2), a place for each of the features (N, D); near ones are similar images."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = features.astype(np.float64)
    if min(rows.shape) > COMPONENTS:
        rows = PCA(COMPONENTS, random_state=seed).fit_transform(rows)
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    init = "pca" if rows.shape[1] >= 2 else "random"
    return TSNE(2, perplexity=perplexity, init=init, random_state=seed).fit_transform(rows).astype(np.float64)
