"""Predictions of no network: random logits with labels, for tests of what is computed from them."""

import numpy as np

from jaxdino.data.record import Split
from jaxdino.evaluation.predictions import Predictions


def made(n: int = 80, classes: int = 6, several: bool = False, absent: tuple[int, ...] = (), seed: int = 0):
    """Random predictions; classes in `absent` have no image."""
    rng = np.random.default_rng(seed)
    names = tuple(f"c{place}" for place in range(classes))
    kept = [place for place in range(classes) if place not in absent]
    if several:
        labels = rng.random((n, classes)) < 0.4
        labels[:, list(absent)] = False
        logits = rng.normal(size=(n, classes)) + 1.5 * labels
    else:
        labels = rng.choice(kept, n)
        logits = rng.normal(size=(n, classes)) + 2 * np.eye(classes)[labels]
    logits = np.round(logits, 1)  # ties
    split = Split("test", [f"/d/{row}.png" for row in range(n)], {}, names, "/d")
    features = rng.normal(size=(n, 4)).astype(np.float32)
    return Predictions(split, names, logits, labels, features, np.arange(n))
