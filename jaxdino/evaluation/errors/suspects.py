"""Images of the split whose class may be wrong, by the predictions of the model, which has not learned from them."""

from importlib.util import find_spec

import numpy as np

from jaxdino.evaluation.predictions import Predictions
from jaxdino.inspect_data.suspects import contradicted


def why_not(found: Predictions) -> str:
    """Return why labels are not searched; "" if they are."""
    if find_spec("cleanlab") is None:
        return "this needs cleanlab: pip install 'jaxdino[check]'"
    if found.several:
        return "the search is for one class an image"
    return "" if len(_searched(found)) > 1 else "this needs two classes of two images or more"


def _searched(found: Predictions) -> np.ndarray:
    """Return the classes with two images or more."""
    return np.flatnonzero(np.bincount(found.labels, minlength=len(found.names)) >= 2)


def suspects(found: Predictions) -> list[tuple[int, float, int]]:
    """Return (row, probability of the given class, more probable class) of images, the least probable class first.

    Classes with fewer than two images are left out, and their probabilities too.
    """
    kept = _searched(found)
    rows = np.flatnonzero(np.isin(found.labels, kept))
    chances = found.odds[rows][:, kept]
    chances = (chances + 1e-12) / (chances + 1e-12).sum(axis=1, keepdims=True)
    listed = contradicted(np.searchsorted(kept, found.labels[rows]), chances)
    return [
        (int(rows[row]), float(found.odds[rows[row], found.labels[rows[row]]]), int(kept[best]))
        for row, _, best in listed
    ]
