"""How well anomalies are told and found: AUROC of images and pixels, and PRO, the overlap with each region."""

from collections.abc import Sequence

import numpy as np

from jaxdino.evaluation.intervals import Statistic

LIMIT = 0.3  # largest false-positive rate of PRO
LEVELS = 1000
"""Levels of score at which pixels are counted for intervals."""


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
    scores, weights, good = [], [], []
    for mask, heat in zip(masks, maps, strict=True):
        scores.append(heat[mask])
        weights.append(region_weights(mask))
        good.append(heat[~mask])
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
    return _area_below(x, y, limit)


def region_weights(mask: np.ndarray) -> np.ndarray:
    """Return for each pixel of `mask`, bool (H, W), one over the size of its region, float (pixels,)."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return 1.0 / np.bincount(labels.ravel(), minlength=count + 1)[labels[mask]]


def pixel_statistic(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], limit: float = LIMIT) -> Statistic:
    """Return a function of how often each image is drawn, (R, N), that gives pixel_auroc and pro, each (R,).

    Pixels are counted at `LEVELS` levels of score, quantiles of all, so that a resample costs no sorting.
    """
    edges = np.unique(np.quantile(np.concatenate([one.ravel() for one in maps]), np.linspace(0, 1, LEVELS + 1)[1:-1]))
    size = len(edges) + 1
    good, bad, overlap = (np.zeros((len(maps), size)) for _ in range(3))  # (N, levels), of rising score
    for row, (mask, heat) in enumerate(zip(masks, maps, strict=True)):
        level = np.searchsorted(edges, heat, side="right")
        good[row] = np.bincount(level[~mask], minlength=size)
        bad[row] = np.bincount(level[mask], minlength=size)
        overlap[row] = np.bincount(level[mask], region_weights(mask), minlength=size)

    def statistic(counts: np.ndarray) -> dict[str, np.ndarray]:
        goods, bads, overlaps = counts @ good, counts @ bad, counts @ overlap
        with np.errstate(invalid="ignore"):
            below = np.cumsum(goods, axis=1) - goods / 2
            area = (bads * below).sum(axis=1) / (bads.sum(axis=1) * goods.sum(axis=1))
            x, y = (_shares_from_above(one) for one in (goods, overlaps))
        return {"pixel_auroc": area, "pro": np.asarray([_area_below(*one, limit) for one in zip(x, y, strict=True)])}

    return statistic


def _shares_from_above(counts: np.ndarray) -> np.ndarray:
    """Return the shares at or above each level from the highest, (R, levels + 1), beginning with 0."""
    found = np.cumsum(counts[:, ::-1], axis=1) / counts.sum(axis=1, keepdims=True)
    return np.pad(found, ((0, 0), (1, 0)))


def _area_below(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Return the mean of y over x from 0 to `limit`; x rises."""
    below = x < limit
    at_limit = np.interp(limit, x, y)
    return float(np.trapezoid(np.append(y[below], at_limit), np.append(x[below], limit)) / limit)
