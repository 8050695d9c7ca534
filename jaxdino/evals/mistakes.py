"""The images that a classifier gets wrong, those with the largest loss first."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdino.evals.classification import losses


class Mistake(NamedTuple):
    """A wrong prediction.

    Attributes:
      index: the image's number in its split. probability: of the predicted class. loss: negative log-likelihood.
    """

    index: int
    label: int
    predicted: int
    probability: float
    loss: float


def mistakes(logits: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> list[Mistake]:
    """List the wrong predictions, by loss.

    Args:
      logits: (N, C). labels: (N,). indices: (N,).
    """
    logits = np.asarray(logits, np.float64)
    lost, predicted = losses(logits, labels), logits.argmax(1)
    sure = np.exp(-losses(logits, predicted))
    wrong = np.flatnonzero(predicted != labels)
    rows = wrong[np.argsort(-lost[wrong], kind="stable")]
    return [
        Mistake(int(indices[row]), int(labels[row]), int(predicted[row]), float(sure[row]), float(lost[row]))
        for row in rows
    ]


def mistakes_csv(found: Sequence[Mistake], images: Sequence[str], classes: Sequence[str]) -> str:
    """Return the text of a CSV with a row for each mistake. `images` are the names of the images of the mistakes."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(["image", "true", "predicted", "probability", "loss"])
    for name, one in zip(images, found, strict=True):
        numbers = f"{one.probability:.4f}", f"{one.loss:.4f}"
        writer.writerow([name, classes[one.label], classes[one.predicted], *numbers])
    return stream.getvalue()


def write_mistakes(file: Path, found: Sequence[Mistake], images: Sequence[str], classes: Sequence[str]) -> None:
    """Write `mistakes_csv` to a file."""
    with file.open("w", newline="") as stream:
        stream.write(mistakes_csv(found, images, classes))
