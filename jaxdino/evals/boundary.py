"""How well the boundaries of classes are found: the F1 score of their pixels within a distance."""

from typing import Any

import numpy as np

from jaxdino.evals.segmentation import IGNORED

SHARE = 0.0075  # of the image's diagonal: the largest distance of a boundary that is found, in its pixels


def boundary_f1(truth: np.ndarray, found: np.ndarray, distance: float | None = None) -> float:
    """Return the mean boundary F1 over the classes of an image's truth; nan if it has no boundary.

    A boundary pixel of a class has a neighbour above, below, left or right that is not of it; the image's edge is none,
    and neither are pixels that are ignored or touch one. Precision is the share of the found boundary with a true one
    within `distance`, recall the share of the true one with a found one.

    Args:
      truth, found: classes (H, W); 255 in the truth is ignored. distance: pixels; None: `SHARE` of the diagonal, at
        least 1.

    Source: Csurka et al. 2013 (What is a good evaluation measure for semantic segmentation?), section 2.3.
    """
    from scipy import ndimage  # a run needs it at its end

    near = max(1.0, SHARE * float(np.hypot(*truth.shape))) if distance is None else distance
    known = ~ndimage.binary_dilation(truth == IGNORED, np.ones((3, 3), bool)) if (truth == IGNORED).any() else True
    scores = []
    for value in np.unique(truth[truth != IGNORED]):
        true, given = (_boundary(labels == value) & known for labels in (truth, found))
        if not true.any():
            continue
        if not given.any():
            scores.append(0.0)
            continue
        precision, recall = _share(given, true, near), _share(true, given, near)
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return float(np.mean(scores)) if scores else float("nan")


def _boundary(inside: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return inside & ~ndimage.binary_erosion(inside, border_value=1)


def _share(of: np.ndarray, within: np.ndarray, near: float) -> float:
    from scipy import ndimage

    far: Any = ndimage.distance_transform_edt(~within)
    return float(np.mean(far[of] <= near))
