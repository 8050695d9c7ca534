"""Calibration of a head: how its scores become probabilities that can be taken at their word."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit, softmax

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice, check_range, read

METHODS = ("temperature", "vector", "isotonic")


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A map from scores to probabilities, fitted on held-out images and saved with the head.

    "temperature": scores are multiplied by the one number in `scale`, 1 / T. "vector": score c becomes
    scale[c] * score + shift[c]. "isotonic": the probability of class c is read off the line through
    (inputs[c], outputs[c]); with one class an image, probabilities are then divided by their sum.

    Source: Guo et al., On Calibration of Modern Neural Networks (arXiv:1706.04599), for the first two;
    Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability Estimates (2002).
    """

    method: str = "temperature"
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = ()
    inputs: tuple[tuple[float, ...], ...] = ()
    outputs: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self):
        check_choice("calibration: method", self.method, METHODS)
        for name in ("scale", "shift"):
            check_range(f"calibration: {name}", getattr(self, name), "(-inf, inf)")
        for name in ("inputs", "outputs"):
            for row in getattr(self, name):
                check_range(f"calibration: {name}", row, "[0, 1]")
        lengths = [list(map(len, rows)) for rows in (self.inputs, self.outputs)]
        if lengths[0] != lengths[1] or 0 in lengths[0]:
            raise UserError("calibration: inputs and outputs must have as many values for each class, at least one")

    def check(self, classes: int) -> None:
        """Raise UserError unless the numbers are those of a head with so many classes."""
        needed = {
            "temperature": {"scale": 1, "shift": 0, "inputs": 0},
            "vector": {"scale": classes, "shift": classes, "inputs": 0},
            "isotonic": {"scale": 1, "shift": 0, "inputs": classes},
        }[self.method]
        for name, count in needed.items():
            if len(getattr(self, name)) != count:
                raise UserError(
                    f"calibration: {name} has {len(getattr(self, name))} entries; {self.method} of {classes} classes "
                    f"takes {count}"
                )

    def scores(self, scores: np.ndarray) -> np.ndarray:
        """Return scores (..., C) multiplied and shifted, float64; those of "isotonic" are unchanged."""
        scaled = np.asarray(scores, np.float64) * np.asarray(self.scale)
        return scaled + np.asarray(self.shift) if self.shift else scaled

    def odds(self, scores: np.ndarray, several: bool) -> np.ndarray:
        """Return probabilities float64 (..., C) of scores (..., C); `several` for any number of classes an image."""
        scores = self.scores(scores)
        found = expit(scores) if several else softmax(scores, axis=-1)
        if self.method != "isotonic":
            return found
        lines = zip(np.moveaxis(found, -1, 0), self.inputs, self.outputs, strict=True)
        found = np.stack([np.interp(*line) for line in lines], axis=-1)
        if several:
            return found
        total = found.sum(axis=-1, keepdims=True)
        return np.where(total > 0, found / np.where(total > 0, total, 1), 1 / found.shape[-1])


def from_json(fields: Any) -> Calibration:
    """Return the calibration that `model.json` holds. Raise UserError for other fields or values."""
    if not isinstance(fields, Mapping):
        raise UserError(f"calibration is {fields!r}: it must be an object")
    return read(Calibration, fields, "calibration")
