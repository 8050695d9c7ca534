"""Weights of classes, from their numbers of images or as given, and a line that describes them. Without JAX."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.core.rules import did_you_mean

SHOWN = 10  # classes listed in a line
Weights = float | tuple[float, ...]


def checked(flag: str, value: Any, named: Sequence[str]) -> Any:
    """Return a setting of weights, a list as a tuple.

    Raises:
      UserError: unless it is None, a name, a positive number, or several of them.
    """
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = tuple(value)
    if value is None or value in named:
        return value
    if isinstance(value, str):
        raise UserError(
            f"{flag}={value!r} is not known; {did_you_mean(value, named)}; or give a number, or one for each class as "
            "(1.0, 2.5)"
        )
    several = value if isinstance(value, tuple) else (value,)
    if not several or not all(isinstance(one, Real) and not isinstance(one, bool) for one in several):
        names = " or ".join(f'"{name}"' for name in named)
        raise UserError(f"{flag}={value!r}: give a number, one for each class as (1.0, 2.5), or {names}")
    check_range(flag, value, "(0, inf)")
    return value


def resolved(flag: str, given: Any, names: Sequence[str], named: Mapping[str, Callable[[], np.ndarray]]) -> Weights:
    """Return the weight of all classes, or of each one in order.

    Args:
      given: as returned by `checked`; None is 1.0. names: the classes. named: {name: function of the weights (C,)}.

    Raises:
      UserError: for too few or too many weights.
    """
    if given in named:
        return tuple(float(weight) for weight in named[given]())
    if not isinstance(given, tuple):
        return 1.0 if given is None else float(given)
    if len(given) != len(names):
        listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        raise UserError(
            f"{flag} has {len(given)} values for {len(names)} classes: give one for each, in this order: {listed}"
        )
    return tuple(map(float, given))


def described(weights: Weights, names: Sequence[str]) -> str:
    """List the weights of the classes, or of as many as fit in a line."""
    if not isinstance(weights, tuple):
        return f"{weights:.4g} for every class"
    shown = [f"{name} {weight:.4g}" for name, weight in zip(names, weights, strict=True)]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return f"{', '.join(shown[:SHOWN])}{more}"


def balanced(shares: np.ndarray) -> np.ndarray:
    """Return 1 / (C * share) for each class (C,): all classes then weigh the same. A class without images has 1.

    Args:
      shares: of the training images, as they are drawn; their sum is 1.

    Source: scikit-learn's compute_class_weight("balanced").
    """
    present = shares > 0
    return np.where(present, 1 / (max(present.sum(), 1) * np.where(present, shares, 1.0)), 1.0)


def effective(counts: np.ndarray, beta: float) -> np.ndarray:
    """Return the inverse effective number of images of each class, (1 - beta) / (1 - beta ** n), with the mean 1.

    A class without images has 1.

    Source: Cui et al. 2019, Class-Balanced Loss (arXiv:1901.05555), equation 4, and its normalisation.
    """
    present = counts > 0
    weights = (1 - beta) / (1 - beta ** np.maximum(counts, 1).astype(np.float64))
    return np.where(present, weights / weights[present].mean(), 1.0)


def positives(labels: np.ndarray) -> np.ndarray:
    """Return for each class the images without it, divided by those with it; 1 if all images have it, or none.

    Args:
      labels: (N, C), 0 or 1.

    Source: the documentation of torch.nn.BCEWithLogitsLoss.
    """
    present_C = np.sum(labels > 0.5, axis=0)
    absent_C = len(labels) - present_C
    return np.where((present_C > 0) & (absent_C > 0), absent_C / np.maximum(present_C, 1), 1.0)
