"""How the classes of an image are chosen from the scores of its head."""

import dataclasses
from typing import ClassVar, Protocol

import numpy as np
from scipy.special import expit, softmax

from jaxdino.models.heads.calibration import Calibration

Odds = list[tuple[int, float]]
"""(index of the class, probability), the most probable class first."""


class Choice(Protocol):
    """The interface of `HeadConfig.choice`.

    Attributes:
      several: whether an image has any number of classes; otherwise it has one, and the most probable ones are given.
    """

    several: ClassVar[bool]

    def __call__(self, scores: np.ndarray, topk: int) -> Odds:
        """Return the chosen classes of an image, with their probabilities, from its scores (C,)."""
        ...


@dataclasses.dataclass(frozen=True)
class MostProbable:
    """The `topk` most probable classes, by softmax; of classes with the same probability and score, the first."""

    calibration: Calibration | None = None
    several: ClassVar[bool] = False

    def __call__(self, scores: np.ndarray, topk: int) -> Odds:
        scores = np.asarray(scores, np.float64)
        if self.calibration is None:
            odds, order = softmax(scores), np.argsort(-scores, kind="stable")
        else:
            odds = self.calibration.odds(scores, several=False)
            order = np.lexsort((-scores, -odds))
        return [(int(i), float(odds[i])) for i in order[:topk]]


@dataclasses.dataclass(frozen=True)
class AboveThresholds:
    """All classes whose probability, by sigmoid, reaches their threshold, whatever `topk`; maybe none.

    Attributes:
      thresholds: a probability for each class.
      calibration: changes the probabilities that are given. calibrated: whether the thresholds are for these, and not
        for those before.
    """

    thresholds: tuple[float, ...]
    calibration: Calibration | None = None
    calibrated: bool = False
    several: ClassVar[bool] = True

    def __call__(self, scores: np.ndarray, topk: int) -> Odds:
        raw = expit(np.asarray(scores, np.float64))
        odds = raw if self.calibration is None else self.calibration.odds(scores, several=True)
        compared = odds if self.calibrated else raw
        order = np.argsort(-odds, kind="stable")
        return [(int(i), float(odds[i])) for i in order if compared[i] >= self.thresholds[i]]
