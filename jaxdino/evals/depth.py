"""Metrics of depth: relative and absolute errors, errors of logarithms, and shares of pixels within a factor."""

from collections.abc import Mapping
from typing import Any

import numpy as np

NAMES = ("abs_rel", "rmse", "delta1", "delta2", "delta3", "log10", "silog", "sq_rel", "rmse_log")
FACTOR = 1.25


def depth_metrics(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the metrics over N pixels, both in metres and above 0, float64.

    Source: Eigen et al. 2014 (arXiv:1406.2283), section 4.3; log10 as in Laina et al. 2016 (arXiv:1606.00373); silog
    as KITTI's benchmark, in hundredths.
    """
    found, truth = np.asarray(found, np.float64), np.asarray(truth, np.float64)
    ratio = np.maximum(found / truth, truth / found)
    logs, error = np.log(found) - np.log(truth), found - truth
    return {
        "abs_rel": float(np.mean(np.abs(error) / truth)),
        "rmse": float(np.sqrt(np.mean(error**2))),
        **{f"delta{n}": float(np.mean(ratio < FACTOR**n)) for n in (1, 2, 3)},
        "log10": float(np.mean(np.abs(logs)) / np.log(10)),
        "silog": float(100 * np.sqrt(max(np.mean(logs**2) - np.mean(logs) ** 2, 0.0))),
        "sq_rel": float(np.mean(error**2 / truth)),
        "rmse_log": float(np.sqrt(np.mean(logs**2))),
    }


class DepthEvaluator:
    """Collect the metrics of each image of a split; see `jaxdino.evals.evaluator.Evaluator`.

      abs_rel, sq_rel: mean of |found - true| / true, and of its square / true.
      rmse, rmse_log: root of the mean squared error, in metres, and of natural logarithms.
      delta1, delta2, delta3: share of pixels whose larger ratio is below 1.25, 1.25^2, 1.25^3.
      log10: mean absolute difference of logarithms to base 10.
      silog: 100 times the standard deviation of the difference of natural logarithms.
    A metric is the mean over the images, each over its pixels with a true depth from min_depth to max_depth; an image
    without any counts nowhere. Predictions are cut off at the same two depths.

    Source: facebookresearch/dinov2 dinov2/eval/depth (Eigen's metrics, a mean over images).
    """

    def __init__(self, min_depth: float, max_depth: float):
        self.names = NAMES
        self.min_depth, self.max_depth = min_depth, max_depth
        self.rows: list[dict[str, float]] = []

    def update(self, found: Mapping[str, Any]) -> None:
        """Add images.

        Args:
          found: prediction and depth, of B images: arrays (B, H, W), or lists of (H, W) of any sizes, in metres.
        """
        for prediction, depth in zip(found["prediction"], found["depth"], strict=True):
            if prediction.shape != depth.shape:
                raise ValueError(f"the depth has shape {depth.shape}, the prediction {prediction.shape}")
            known = (depth >= self.min_depth) & (depth <= self.max_depth)
            if known.any():
                kept = np.clip(prediction[known], self.min_depth, self.max_depth)
                self.rows.append(depth_metrics(kept, depth[known]))

    def compute(self) -> dict[str, float]:
        """Return {metric: mean over the images}; nan without an image."""
        return {name: float(np.mean([row[name] for row in self.rows])) if self.rows else float("nan") for name in NAMES}
