"""Fit a calibration on held-out images: temperature, vector scaling, isotonic regression."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax, softmax

from jaxdino.core.errors import UserError
from jaxdino.models.heads.calibration import Calibration

KNOTS = 200
"""Most points of an isotonic line that are kept: of more, evenly spread ones."""
BOUNDS = (-10.0, 10.0)
"""Of the logarithm of 1 / T, as in scikit-learn's temperature scaling."""
AT_BOUND = 0.01
"""Distance of a logarithm from a bound up to which the fit stopped there."""
DECAY = 1e-3
"""Weight in the loss of vector scaling's distance from the identity: few images of a class move it little."""


def fitted(method: str, logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Return the calibration with the lowest loss on these images, of a key of `FITS`.

    Args:
      logits: (N, C). labels: int (N,), or bool (N, C) for images with several classes.

    Raises:
      UserError: without two images.
    """
    if len(logits) < 2:
        raise UserError(f"--calibrate {method} needs two validation images or more")
    return FITS[method](np.asarray(logits, np.float64), labels)


def doubt(logits: np.ndarray, labels: np.ndarray) -> str:
    """Return what is wrong with images to fit on, "" if nothing: if all are right, no certainty is too high."""
    if labels.ndim == 2 or not (logits.argmax(axis=1) == labels).all():
        return ""
    return (
        f"all {len(labels):,} validation images are classified correctly, so the fit makes probabilities as certain as "
        "it can: it needs images that the model gets wrong"
    )


def flat(made: Calibration) -> str:
    """Return what is wrong with a fitted calibration, "" if nothing: a temperature without end tells nothing apart."""
    if made.method != "temperature" or np.log(made.scale[0]) > BOUNDS[0] + AT_BOUND:
        return ""
    return (
        "the temperature grew to its limit, so all classes get the same probability: on the validation images the "
        "model is no better than chance"
    )


def temperature(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit one number that all logits are multiplied by, by the mean log loss.

    For one class an image this is scikit-learn's `CalibratedClassifierCV(method="temperature")`, from version 1.8 on.
    """
    found = minimize_scalar(
        lambda power: _loss(np.exp(power) * logits, labels), bounds=BOUNDS, options={"xatol": 64 * np.finfo(float).eps}
    )
    return Calibration("temperature", (float(np.exp(found.x)),))


def vector(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit a scale and a shift for each class, by the mean log loss and `DECAY`."""
    count, several = logits.shape[1], labels.ndim == 2
    there = labels.astype(float) if several else np.eye(count)[labels]

    def objective(numbers: np.ndarray) -> tuple[Any, Any]:
        scale, shift = numbers[:count], numbers[count:]
        scores = logits * scale + shift
        size = len(logits) * (count if several else 1)
        slope = ((expit(scores) if several else softmax(scores, axis=1)) - there) / size
        far = np.concatenate([scale - 1, shift])
        gradient = np.concatenate([(slope * logits).sum(axis=0), slope.sum(axis=0)])
        return _loss(scores, labels) + DECAY * far @ far / 2, gradient + DECAY * far

    start = np.concatenate([np.ones(count), np.zeros(count)])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    return Calibration("vector", tuple(found.x[:count].tolist()), tuple(found.x[count:].tolist()))


def isotonic(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit a rising line for each class against all others, by scikit-learn's `IsotonicRegression`.

    A class that all or none of the images have keeps its probabilities.
    """
    from sklearn.isotonic import IsotonicRegression

    count, several = logits.shape[1], labels.ndim == 2
    odds = expit(logits) if several else softmax(logits, axis=1)
    there = labels if several else labels.reshape(-1, 1) == np.arange(count)
    inputs, outputs = [], []
    for given, has in zip(odds.T, there.T, strict=True):
        if not 0 < has.sum() < len(has):
            inputs.append((0.0, 1.0))
            outputs.append((0.0, 1.0))
            continue
        line = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(given, has.astype(float))
        across, up = line.X_thresholds_, line.y_thresholds_
        kept = np.unique(np.linspace(0, len(across) - 1, min(KNOTS, len(across))).astype(int))
        inputs.append(tuple(across[kept].tolist()))
        outputs.append(tuple(np.clip(up[kept], 0, 1).tolist()))
    return Calibration("isotonic", inputs=tuple(inputs), outputs=tuple(outputs))


def _loss(scores: np.ndarray, labels: np.ndarray) -> float:
    if labels.ndim == 2:
        return float(np.mean(np.logaddexp(0, scores) - scores * labels))
    return float(-np.mean(log_softmax(scores, axis=1)[np.arange(len(labels)), labels]))


FITS: dict[str, Callable[[np.ndarray, np.ndarray], Calibration]] = {
    "temperature": temperature,
    "vector": vector,
    "isotonic": isotonic,
}
