"""How well anomalies are told and found: AUROC of images and pixels, and PRO, the overlap with each region."""

from collections.abc import Sequence

import numpy as np

LIMIT = 0.3  # largest false-positive rate of PRO


def auroc(wrong: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve; nan if only one of the two kinds is there."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong, scores)) if 0 < np.count_nonzero(wrong) < len(wrong) else float("nan")


def pixel_auroc(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> float:
    """Return the AUROC of all pixels together; masks bool (H, W), maps float (H, W)."""
    return auroc(np.concatenate([one.ravel() for one in masks]), np.concatenate([one.ravel() for one in maps]))


def pro(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], limit: float = LIMIT) -> float:
    """Return the mean share of each connected region that is found, averaged over false-positive rates up to `limit`.

    Regions are connected by edges and corners. nan without a region or without good pixels.

    Source: Bergmann et al. 2021 (The MVTec Anomaly Detection Dataset, IJCV), section 5.2.
    """
    from scipy import ndimage

    scores, weights, good = [], [], []
    for mask, heat in zip(masks, maps, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        inside = labels > 0
        scores.append(heat[inside])
        weights.append(1.0 / sizes[labels[inside]])
        good.append(heat[~inside])
    regions, normal = np.concatenate(weights).sum(), np.concatenate(good)
    if not len(normal) or regions == 0:
        return float("nan")
    values = np.concatenate([*scores, normal])
    overlap = np.concatenate([*weights, np.zeros(len(normal))]) / regions
    false = np.concatenate([np.zeros(len(values) - len(normal)), np.full(len(normal), 1.0 / len(normal))])
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # pixels of one score are found together
    x = np.concatenate([[0.0], np.cumsum(false[order])[last]])
    y = np.concatenate([[0.0], np.cumsum(overlap[order])[last]])
    at_limit = np.interp(limit, x, y)
    below = x < limit
    return float(np.trapezoid(np.append(y[below], at_limit), np.append(x[below], limit)) / limit)
