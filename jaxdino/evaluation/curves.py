"""ROC and precision-recall curves, and the sensitivity and specificity at operating points chosen on validation."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.evaluation.figure import Figure, figure
from jaxdino.evaluation.intervals import Resampling, bootstrap, share
from jaxdino.evaluation.predictions import Predictions

POINTS = 200
"""Most points of a curve that are kept."""
KINDS = ("sensitivity", "specificity", "probability")
POINT = re.compile(rf"({'|'.join(KINDS)})=(\d*\.?\d+)")


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """What a threshold is chosen for: at least this sensitivity or specificity, or the probability itself."""

    kind: str
    value: float

    @classmethod
    def of(cls, text: str) -> "OperatingPoint":
        """Read "sensitivity=0.9". Raise UserError for another form, or a value that is not between 0 and 1."""
        found = POINT.fullmatch(text)
        if found is None or not 0 < float(found[2]) < 1:
            raise UserError(
                f"--at {text} is not an operating point: give KIND=VALUE with a value between 0 and 1, and a KIND of "
                f"{', '.join(KINDS)}"
            )
        return cls(found[1], float(found[2]))

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"

    def threshold(self, there: np.ndarray, odds: np.ndarray) -> float | None:
        """Return the probability from which an image gets the class; None if these images cannot tell.

        For a sensitivity the highest threshold that reaches it, for a specificity the lowest one.
        """
        from sklearn.metrics import roc_curve

        if self.kind == "probability":
            return self.value
        if not 0 < there.sum() < len(there):
            return None
        wrong, right, thresholds = roc_curve(there, odds, drop_intermediate=False)
        if self.kind == "sensitivity":
            return float(thresholds[np.argmax(right >= self.value)])
        kept = np.flatnonzero(1 - wrong >= self.value)
        return float(thresholds[kept[-1]])


def at_points(
    points: Sequence[OperatingPoint], chosen_on: Predictions, found: Predictions, how: Resampling
) -> dict[str, dict[str, dict[str, Figure]]]:
    """Return {point: {class: {"threshold", "sensitivity", "specificity"}}}: chosen on one split, measured on another.

    With clusters the intervals are of the bootstrap, else Wilson's.
    """
    result: dict[str, dict[str, dict[str, Figure]]] = {}
    for point in points:
        rows = result.setdefault(str(point), {})
        for place, name in enumerate(found.names):
            threshold = point.threshold(chosen_on.there[:, place], chosen_on.odds[:, place])
            there = found.there[:, place]
            if threshold is None:
                why = f"{chosen_on.split.name} has images with the class, or without it, alone: no threshold"
                rows[name] = {key: Figure(None, 0, why=why) for key in ("threshold", "sensitivity", "specificity")}
                continue
            said = found.odds[:, place] >= threshold
            on, none = f"chosen on {chosen_on.split.name}", "no probability is high enough: nothing gets the class"
            rows[name] = {"threshold": figure(threshold, len(chosen_on), method=on, why=none)}
            for key, who, right in (("sensitivity", there, said), ("specificity", ~there, ~said)):
                span = _clustered(who, right, how)
                rows[name][key] = share(int((who & right).sum()), int(who.sum()), how, span, "no such image")
    return result


def _clustered(who: np.ndarray, right: np.ndarray, how: Resampling) -> tuple[float, float] | None:
    if how.clusters is None or not who.any():
        return None

    def ratio(counts: np.ndarray) -> dict[str, np.ndarray]:
        below = counts @ who.astype(float)
        return {"share": np.divide(counts @ (who & right).astype(float), below, out=below * np.nan, where=below > 0)}

    low, high = bootstrap(ratio, len(who), how)["share"]
    return float(low), float(high)


def curves(found: Predictions) -> dict[str, dict[str, list[float]]]:
    """Return {class: {"fpr", "tpr", "recall", "precision"}} of the classes that some images have, and others do not."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    result = {}
    for place, name in enumerate(found.names):
        there, score = found.there[:, place], found.log_odds[:, place]
        if not 0 < there.sum() < len(there):
            continue
        wrong, right, _ = roc_curve(there, score)
        precision, recall, _ = precision_recall_curve(there, score)
        rows = {"fpr": _thinned(wrong), "tpr": _thinned(right)}
        result[name] = rows | {"recall": _thinned(recall[::-1]), "precision": _thinned(precision[::-1])}
    return result


def _thinned(values: np.ndarray) -> list[float]:
    places = np.unique(np.linspace(0, len(values) - 1, min(POINTS, len(values))).astype(int))
    return [round(float(value), 6) for value in values[places]]
