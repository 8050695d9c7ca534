"""How often the images of each class are drawn in an epoch of training."""

from collections.abc import Sequence

import numpy as np

from jaxdino.core.options import check_choice

UNIFORM = "uniform"
POWERS = {UNIFORM: 1.0, "square_root": 0.5, "balanced": 0.0}
"""data.sampling -> p: a class is drawn in proportion to (its number of images) ** p.

Source: Kang et al. 2020, Decoupling Representation and Classifier (arXiv:1910.09217), section 4.1.
"""


def class_shares(counts: np.ndarray, sampling: str) -> np.ndarray:
    """Return the share of the training images that each class has, as they are drawn, float64 (C,); 0 without images.

    Args:
      counts: number of training images of each class (C,). sampling: a key of `POWERS`.

    Raises:
      UserError: for an unknown sampling.
    """
    check_choice("data.sampling", sampling, list(POWERS))
    amounts = np.where(counts > 0, np.asarray(counts, np.float64) ** POWERS[sampling], 0.0)
    return amounts / amounts.sum()


def class_draws(counts: np.ndarray, sampling: str, total: int) -> np.ndarray:
    """Divide the draws of an epoch among the classes, by the largest remainder, int64 (C,) with the sum `total`."""
    exact = class_shares(counts, sampling) * total
    draws = np.floor(exact).astype(np.int64)
    largest = np.argsort(draws - exact, kind="stable")
    draws[largest[: total - draws.sum()]] += 1
    return draws


def drawn_words(counts: np.ndarray, names: Sequence[str], sampling: str) -> str:
    """Describe how often an image of the smallest and of the largest class is drawn an epoch."""
    draws = class_draws(counts, sampling, int(counts.sum()))
    there = np.flatnonzero(counts)
    if np.ptp(counts[there]) == 0:
        return f"each class with images has {counts[there[0]]} of them, so that it changes little"
    ends = (there[pick(counts[there])] for pick in (np.argmin, np.argmax))
    return "; ".join(
        f"the {counts[one]} images of {names[one]!r} are drawn {draws[one] / counts[one]:.3g} times each in an epoch"
        for one in ends
    )
