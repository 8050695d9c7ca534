"""Linear centred kernel alignment: how similar two sets of features of the same images are."""

import numpy as np


def linear_cka(x: np.ndarray, y: np.ndarray) -> float | None:
    """Return the linear CKA of features (N, D) and (N, E) of the same N images, 0 to 1; 1 is the same up to rotation.

    None if the features of all images are the same, where it is not defined.

    Source: Kornblith et al. 2019 (arXiv:1905.00414), equation 3 with linear kernels: |Y'X|^2 / (|X'X| |Y'Y|), Frobenius
    norms of centred features.
    """
    x, y = (np.asarray(one, np.float64) - np.asarray(one, np.float64).mean(axis=0) for one in (x, y))
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    if not own > 0:
        return None
    return float(min(np.linalg.norm(y.T @ x) ** 2 / own, 1.0))
