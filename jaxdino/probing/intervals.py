"""Intervals of what is measured, at 95 % confidence: each number comes with its n and how its interval is computed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxdino.core.intervals import wilson

CONFIDENCE = 0.95
RESAMPLES = 500


def share(right: np.ndarray) -> dict[str, Any]:
    """Return the share of right answers, bool (N,), with its Wilson interval."""
    n, count = len(right), int(np.sum(right))
    return {"value": count / n, "n": n, "interval": list(wilson(count, n, CONFIDENCE)), "how": "Wilson"}


def spread(values: Sequence[float], of: str) -> dict[str, Any]:
    """Return mean, standard deviation of one and Student's t interval of the mean of several shares, within 0 and 1.

    The values of folds share training images and those of seeds all of them: the interval is a guide, not a test.

    Args:
      of: what varies: "folds", "seeds", "draws".
    """
    n, mean = len(values), float(np.mean(values))
    found: dict[str, Any] = {"mean": mean, "n": n, "of": of, "values": [float(value) for value in values]}
    if n < 2:
        return found | {"std": None, "interval": None, "reason": f"one value has no spread over {of}"}
    std = float(np.std(values, ddof=1))
    if std == 0:
        return found | {
            "std": std,
            "interval": None,
            "reason": f"all {n} {of} agree, so their spread gives no interval",
        }
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * std / n**0.5
    interval = [max(mean - half, 0.0), min(mean + half, 1.0)]
    return found | {"std": std, "interval": interval, "how": "Student's t"}


def over_folds(folds: dict[str, Any], n: int, shares: bool) -> dict[str, Any]:
    """Return the mean over folds of N images with its interval: Student's t; where all folds agree, Wilson's.

    Args:
      folds: as from `spread`. shares: whether the values are shares of right answers.
    """
    found = {"value": folds["mean"], "n": n, "interval": folds["interval"]}
    if folds["interval"] is not None:
        return found | {"how": "Student's t over folds"}
    if not shares:
        return found | {"reason": folds["reason"]}
    return found | {
        "interval": list(wilson(round(folds["mean"] * n), n, CONFIDENCE)),
        "how": "Wilson, as all folds agree",
    }


def bootstrap(metric: Callable[[np.ndarray], float], n: int, seed: int = 0) -> dict[str, Any]:
    """Return a metric of N images with the percentile interval over resampled images.

    Args:
      metric: function of rows int (N,), with repetitions; raises ValueError where it is not defined.
    """
    rng, found, undefined = np.random.default_rng([seed, n]), [], 0
    for _ in range(RESAMPLES):
        try:
            found.append(metric(rng.integers(0, n, n)))
        except ValueError:
            undefined += 1
    ends = [50 * (1 - CONFIDENCE), 100 - 50 * (1 - CONFIDENCE)]
    interval = [float(end) for end in np.percentile(found, ends)] if found else None
    about = {"value": float(metric(np.arange(n))), "n": n, "interval": interval, "how": f"bootstrap of {RESAMPLES}"}
    return about | ({"undefined_resamples": undefined} if undefined else {})
