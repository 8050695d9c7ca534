"""The most confident mistakes of a model, and all of its mistakes as CSV."""

import csv
import dataclasses
import io
from collections.abc import Sequence

import numpy as np

from jaxdino.evals.mistakes import Mistake, mistakes_csv
from jaxdino.evaluation.metrics import given_classes
from jaxdino.evaluation.predictions import Predictions, shown_names

TINY = np.finfo(np.float64).tiny


@dataclasses.dataclass(frozen=True)
class Wrong:
    """The wrong decisions of a model, the most confident first; an image of several classes can have several.

    Attributes:
      rows: int (M,), the images as rows of the predictions. classes: int (M,), the class that is wrongly given, or
        with several classes an image wrongly given or missed. probabilities: float64 (M,), of that class.
    """

    rows: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def first_of_images(self, most: int) -> "Wrong":
        """Return the first decision of each image, for at most `most` images."""
        kept = np.sort(np.unique(self.rows, return_index=True)[1])[:most]
        return Wrong(self.rows[kept], self.classes[kept], self.probabilities[kept])


def wrong(found: Predictions, thresholds: Sequence[float]) -> Wrong:
    """List wrong decisions: by the probability of the wrong class, or by their distance from the true label.

    Args:
      thresholds: those of the model; () for one class an image.
    """
    given = given_classes(found, thresholds)
    if found.several:
        rows, classes = np.nonzero(given != found.there)
        order = np.argsort(-np.abs(found.odds - found.there)[rows, classes], kind="stable")
    else:
        rows = np.flatnonzero(found.said != found.labels)
        classes = found.said[rows]
        order = np.argsort(-found.log_odds[rows, classes], kind="stable")
    rows, classes = rows[order], classes[order]
    return Wrong(rows, classes, found.odds[rows, classes])


def words(found: Predictions, one: Wrong) -> list[str]:
    """Return what is said of each wrong decision."""
    lines = []
    for row, place, chance in zip(one.rows.tolist(), one.classes.tolist(), one.probabilities.tolist(), strict=True):
        name = found.names[place]
        if found.several:
            truth = "has it" if found.there[row, place] else "does not have it"
            lines.append(f"{name}: {chance:.1%}, but the image {truth}")
        else:
            lines.append(f"predicted {name} ({chance:.1%}), true {found.names[found.labels[row]]}")
    return lines


def as_csv(found: Predictions, one: Wrong) -> str:
    """Return all wrong decisions as the text of a CSV file, in the columns of a run's mistakes.csv if it can be."""
    images = shown_names(found, one.rows.tolist())
    if found.several:
        stream = io.StringIO(newline="")
        writer = csv.writer(stream)
        writer.writerow(["image", "class", "true", "probability"])
        for name, row, place, chance in zip(images, one.rows, one.classes, one.probabilities, strict=True):
            writer.writerow([name, found.names[place], int(found.there[row, place]), f"{chance:.4f}"])
        return stream.getvalue()
    true = found.labels[one.rows]
    losses = -np.log(np.maximum(found.odds[one.rows, true], TINY))
    columns = (found.indices[one.rows], true, one.classes, one.probabilities, losses)
    listed = [Mistake(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]
    return mistakes_csv(listed, images, found.names)
