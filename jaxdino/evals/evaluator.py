"""The interface of an evaluator: what a validation pass feeds, and what it computes."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Evaluator(Protocol):
    """Metrics of one pass over a split.

    Attributes:
      names: the metrics, without the split; the first is the default monitor of a stage.
    """

    names: tuple[str, ...]

    def update(self, found: Mapping[str, np.ndarray]) -> None:
        """Add the outputs and fields of the readable images of one batch, on the host."""

    def compute(self) -> dict[str, float]:
        """Return {metric: value} of everything added. Raises UserError if there is no image."""
        ...
