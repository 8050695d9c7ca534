"""Metrics of classification, of one class or several for each image, from scikit-learn, with intervals.

Functions import scikit-learn themselves: it takes a third of the time in which a command starts.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from jaxdino.evaluation import resampled
from jaxdino.evaluation.figure import Figure, figure
from jaxdino.evaluation.intervals import Resampling, bootstrap, of_bootstrap, share
from jaxdino.evaluation.predictions import Predictions

TOP = (3, 5)
WORK = 300_000_000
"""Most resamples x images x classes for the areas under curves; beyond it there are fewer resamples, or no interval."""
LEAST = 200
AVERAGES = ("macro", "micro", "weighted")
KINDS = ("precision", "recall", "f1")
ABSENT = "no image of the split has the class"
ALL = "all images of the split have the class, or none"


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures of a split.

    Attributes:
      whole: {metric: figure}. classes: {class: {metric: figure}}. confusion: (C, C) counts for one class an image;
        (C, 2, 2) as in scikit-learn's multilabel_confusion_matrix for several.
    """

    whole: dict[str, Figure]
    classes: dict[str, dict[str, Figure]]
    confusion: np.ndarray


def given_classes(found: Predictions, thresholds: Sequence[float]) -> np.ndarray:
    """Return bool (N, C), the classes that each image is given: the most probable, or all above their thresholds.

    Thresholds of a model are for probabilities before calibration.
    """
    if found.several:
        return expit(found.logits) >= np.asarray(thresholds).reshape(1, -1)
    return found.said.reshape(-1, 1) == np.arange(len(found.names))


def measured(found: Predictions, thresholds: Sequence[float], how: Resampling) -> Measured:
    """Compute all metrics of a split.

    Args:
      thresholds: probability from which an image has each class; () for one class an image.
      how: see `intervals.Resampling`; clusters are of these images.
    """
    given = given_classes(found, thresholds)
    whole, confusion = (_several if found.several else _single)(found, given)
    spans = _intervals(found, given, how)
    figures = {}
    for name, (value, n, hits, why) in whole.items():
        if hits is not None:
            figures[name] = share(hits, n, how, _pair(spans, name))
        else:
            figures[name] = of_bootstrap(value, n, _pair(spans, name), how, why)
    return Measured(figures, _classes(found, given, thresholds, spans, how), confusion)


Value = tuple[float | None, int, int | None, str]
"""(value, n, hits if it is a share of images, why it may be missing)."""


def _single(found: Predictions, given: np.ndarray) -> tuple[dict[str, Value], np.ndarray]:
    from sklearn import metrics as sk

    labels, n, classes = found.labels, len(found), np.arange(len(found.names))
    said, there = given.argmax(axis=1), np.unique(labels)
    values: dict[str, Value] = {"accuracy": (None, n, int((said == labels).sum()), "")}
    for k in TOP:
        why = f"there are only {len(classes)} classes"
        hits = (
            sk.top_k_accuracy_score(labels, found.logits, k=k, labels=classes, normalize=False)
            if k < len(classes)
            else None
        )
        values[f"top{k}_accuracy"] = (None, n, None, why) if hits is None else (None, n, int(hits), "")
    with warnings.catch_warnings():  # of predicted classes that the split lacks
        warnings.simplefilter("ignore", UserWarning)
        values["balanced_accuracy"] = (sk.balanced_accuracy_score(labels, said), n, None, "")
    for average in AVERAGES:
        kept = classes if average == "micro" else there
        scores = sk.precision_recall_fscore_support(labels, said, labels=kept, average=average, zero_division=0)
        values |= {f"{average}_{kind}": (score, n, None, "") for kind, score in zip(KINDS, scores, strict=False)}
    alone = "one class only, in the split and in the predictions"
    constant = len(there) == 1 and (said == labels).all()
    kappa = None if constant else sk.cohen_kappa_score(labels, said, labels=classes)
    matthews = None if constant else sk.matthews_corrcoef(labels, said)
    values |= {"kappa": (kappa, n, None, alone), "matthews": (matthews, n, None, alone)}
    values |= _ranked(found)
    return values, sk.confusion_matrix(labels, said, labels=classes)


def _several(found: Predictions, given: np.ndarray) -> tuple[dict[str, Value], np.ndarray]:
    from sklearn import metrics as sk

    there, n = found.there, len(found)
    why = "an image has any number of classes"
    exact = int((there == given).all(axis=1).sum())
    values: dict[str, Value] = {"accuracy": (None, n, exact, "")}
    values["decision_accuracy"] = (1 - sk.hamming_loss(there, given), n, None, "")
    values |= {f"top{k}_accuracy": (None, n, None, why) for k in TOP}
    kept = np.flatnonzero(there.any(axis=0))
    for average in AVERAGES:
        columns = np.arange(there.shape[1]) if average == "micro" else kept
        scores = sk.precision_recall_fscore_support(
            there[:, columns], given[:, columns], average=average, zero_division=0
        )
        values |= {f"{average}_{kind}": (score, n, None, ABSENT) for kind, score in zip(KINDS, scores, strict=False)}
    known = [place for place in kept if not there[:, place].all()]
    for name, score in (("kappa", sk.cohen_kappa_score), ("matthews", sk.matthews_corrcoef)):
        each = [score(there[:, place], given[:, place]) for place in known]
        values[name] = (float(np.mean(each)) if each else None, n, None, ALL)
    return values | _ranked(found), sk.multilabel_confusion_matrix(there, given)


def _ranked(found: Predictions) -> dict[str, Value]:
    """Return the means over classes of the areas under the curves."""
    areas = areas_of(found)
    means = {"macro_auc": (areas["auc"], ALL), "map": (areas["average_precision"], ABSENT)}
    result: dict[str, Value] = {}
    for name, (each, why) in means.items():
        known = [value for value in each if value is not None]
        result[name] = (float(np.mean(known)) if known else None, len(found), None, why)
    return result


def areas_of(found: Predictions) -> dict[str, list[float | None]]:
    """Return {"auc", "average_precision": a value for each class against all others, None if it is not defined}."""
    from sklearn import metrics as sk

    auc, precision = [], []
    for there, score in zip(found.there.T, found.log_odds.T, strict=True):
        auc.append(float(sk.roc_auc_score(there, score)) if 0 < there.sum() < len(there) else None)
        precision.append(float(sk.average_precision_score(there, score)) if there.any() else None)
    return {"auc": auc, "average_precision": precision}


def _intervals(found: Predictions, given: np.ndarray, how: Resampling) -> dict[str, Any]:
    """Return the bootstrap intervals of all values."""
    n, classes = len(found), len(found.names)
    parts: list[Callable] = [resampled.Decisions(found.there, given, found.several)]
    if how.clusters is not None and not found.several:
        rank = (found.odds > np.take_along_axis(found.odds, found.labels.reshape(-1, 1), 1)).sum(axis=1)
        parts.append(resampled.mean_of({f"top{k}_accuracy": (rank < k).astype(float) for k in TOP}))
    spans = bootstrap(resampled.joined(*parts), n, how)
    count = min(how.count, WORK // max(n * classes, 1))
    if count >= min(LEAST, how.count):
        fewer = dataclasses.replace(how, count=count)
        spans |= bootstrap(resampled.Ranking(found.there, found.log_odds), n, fewer)
    return spans


def _pair(spans: dict[str, Any], name: str, place: int | None = None) -> tuple[float, float] | None:
    if name not in spans:
        return None
    low, high = spans[name]
    return (float(low), float(high)) if place is None else (float(low[place]), float(high[place]))


def _classes(
    found: Predictions, given: np.ndarray, thresholds: Sequence[float], spans: dict[str, Any], how: Resampling
) -> dict[str, dict[str, Figure]]:
    """Return the figures of each class; an image counts as having the class or not."""
    n, result, areas = len(found), {}, areas_of(found)
    point = resampled.Decisions(found.there, given, found.several)(np.ones((1, n)))
    for place, name in enumerate(found.names):
        there, said = found.there[:, place], given[:, place]
        images, hits = int(there.sum()), int((there & said).sum())
        others, rejected = n - images, int((~there & ~said).sum())

        def of(key: str, place: int = place) -> tuple[float, float] | None:
            return _pair(spans, f"class/{key}", place)

        row = {
            "images": Figure(images, n, method="a count"),
            "precision": share(hits, int(said.sum()), how, of("precision"), "the class is never predicted"),
            "sensitivity": share(hits, images, how, of("recall"), ABSENT),
            "specificity": share(rejected, others, how, of("specificity"), "all images have the class"),
            "f1": of_bootstrap(_defined(point["class/f1"][0, place]), n, of("f1"), how, ABSENT),
        }
        for key, why in (("auc", ALL), ("average_precision", ABSENT)):
            row[key] = of_bootstrap(areas[key][place], n, of(key), how, why)
        if found.several:
            row["threshold"] = figure(thresholds[place], n, method="chosen on val in training")
            for key in ("kappa", "matthews"):
                row[key] = of_bootstrap(_defined(point[f"class/{key}"][0, place]), n, of(key), how, ALL)
        result[name] = row
    return result


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
