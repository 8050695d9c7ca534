"""How the classes of an image are chosen from the scores of its head."""

import dataclasses
from typing import ClassVar, Protocol

import numpy as np
from scipy.special import expit, softmax

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
    """The `topk` most probable classes, by softmax; of classes with the same score, the first."""

    several: ClassVar[bool] = False

    def __call__(self, scores: np.ndarray, topk: int) -> Odds:
        scores = np.asarray(scores, np.float64)
        odds = softmax(scores)
        return [(int(i), float(odds[i])) for i in np.argsort(-scores, kind="stable")[:topk]]


@dataclasses.dataclass(frozen=True)
class AboveThresholds:
    """All classes whose probability, by sigmoid, reaches their threshold, whatever `topk`; maybe none.

    Attributes:
      thresholds: a probability for each class.
    """

    thresholds: tuple[float, ...]
    several: ClassVar[bool] = True

    def __call__(self, scores: np.ndarray, topk: int) -> Odds:
        odds = expit(np.asarray(scores, np.float64))
        return [(int(i), float(odds[i])) for i in np.argsort(-odds, kind="stable") if odds[i] >= self.thresholds[i]]
