"""The section of metrics: tables of figures, curves, confusion matrix, operating points."""

from collections.abc import Sequence
from typing import Any

from jaxdino.evaluation.curves import OperatingPoint, at_points, curves
from jaxdino.evaluation.drawing import drawn, lines
from jaxdino.evaluation.figure import Figure
from jaxdino.evaluation.intervals import Resampling
from jaxdino.evaluation.metrics import Measured
from jaxdino.evaluation.predictions import Predictions
from jaxdino.evaluation.section import Block, Matrix, Notes, Plots, Section, Table

TITLES = {
    "accuracy": "accuracy",
    "decision_accuracy": "accuracy of single decisions",
    "balanced_accuracy": "balanced accuracy",
    "macro_precision": "precision, macro",
    "macro_recall": "recall, macro",
    "macro_f1": "F1, macro",
    "weighted_precision": "precision, weighted",
    "weighted_recall": "recall, weighted",
    "weighted_f1": "F1, weighted",
    "micro_precision": "precision, micro",
    "micro_recall": "recall, micro",
    "micro_f1": "F1, micro",
    "macro_auc": "area under ROC, macro",
    "map": "average precision, macro",
    "kappa": "Cohen's kappa",
    "matthews": "Matthews correlation",
}
COLUMNS = {
    "images": "images",
    "sensitivity": "sensitivity (recall)",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "auc": "AUC",
    "average_precision": "average precision",
    "threshold": "threshold",
}
CURVES = 10
"""Most classes whose curves are drawn: of more, the ones with the lowest area."""
CLASSES = 40
"""Most classes of a confusion matrix on the page, and of the table of operating points."""
MACRO = (
    "Macro: mean over the classes that an image of the split has; weighted: by their images; micro: of all decisions"
)


def metrics_section(
    found: Predictions,
    result: Measured,
    chosen_on: Predictions,
    points: Sequence[OperatingPoint],
    how: Resampling,
) -> Section:
    """Return the figures of a split.

    Args:
      chosen_on: the validation split, on which the thresholds of the operating points are chosen.
    """
    at, drawn_curves = at_points(points, chosen_on, found, how), curves(found)
    values = {"whole": result.whole, "classes": result.classes, "operating_points": at, "curves": drawn_curves}
    values |= {"confusion": {"classes": list(found.names), "counts": result.confusion.tolist()}}
    title = f"Metrics on {found.split.name}"
    blocks: list[Block] = [_whole(result.whole, found), *_missing(result.whole)]
    blocks.append(_classes(result.classes))
    if not found.several and len(found.names) <= CLASSES:
        blocks.append(Matrix(list(found.names), result.confusion.tolist()))
    if found.several:
        blocks.append(_counts(result, found))
    if drawn_curves:
        blocks.append(_plots(drawn_curves, result.classes))
    return Section("metrics", title, values, [*blocks, *_points(at, chosen_on)])


OF_CLASSES = (
    "each class against all others; - not defined. Intervals: Wilson's interval of sensitivity, specificity and "
    "precision (the bootstrap's of images in groups), the bootstrap's of the others; none where all resamples agree or "
    "too few have a value"
)


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("top", "top-").replace("_", " "))


def _whole(whole: dict[str, Figure], found: Predictions) -> Table:
    order = [*(name for name in whole if name.startswith("top")), *TITLES]
    names = ["accuracy", *(name for name in order if name in whole and name != "accuracy")]
    names = [name for name in names if whole[name].value is not None]
    rows = [[_title(name), whole[name].text(), str(whole[name].n), whole[name].kind] for name in names]
    if found.several:
        rows[0][0] = "accuracy: all classes of an image right"
    return Table(["metric", "value (interval)", "images", "interval"], rows, note=MACRO, left=1)


def _missing(whole: dict[str, Figure]) -> list[Notes]:
    lines_ = [f"{_title(name)}: not computed, {one.why}." for name, one in whole.items() if one.value is None]
    return [Notes(lines_)] if lines_ else []


def _classes(classes: dict[str, dict[str, Figure]]) -> Table:
    names = {key: name for key, name in COLUMNS.items() if any(key in row for row in classes.values())}
    rows = [[name, *(_cell(key, row[key]) for key in names)] for name, row in classes.items()]
    return Table(["class", *names.values()], rows, "Classes", OF_CLASSES)


def _cell(key: str, one: Figure) -> str:
    return f"{one.value:.0f}" if key == "images" else one.text()


def _counts(result: Measured, found: Predictions) -> Table:
    """Return the decisions of each class: what a confusion matrix is for images with several classes."""
    rows = []
    for name, ((rejected, false), (missed, hits)) in zip(found.names, result.confusion.tolist(), strict=True):
        rows.append([name, str(hits), str(missed), str(false), str(rejected)])
    heads = ["class", "found", "missed", "given wrongly", "rightly not given"]
    return Table(heads, rows, "Decisions", "images, at the thresholds of the model")


def _plots(found: dict[str, dict[str, list[float]]], classes: dict[str, dict[str, Figure]]) -> Plots:
    names = sorted(found, key=lambda name: classes[name]["auc"].value or 0.0)[:CURVES]

    def label(name: str, key: str) -> str:
        return f"{name} ({classes[name][key].text().split(' ')[0]})"

    roc = [(label(name, "auc"), found[name]["fpr"], found[name]["tpr"]) for name in names]
    recall = [(label(name, "average_precision"), found[name]["recall"], found[name]["precision"]) for name in names]
    images = [
        ("ROC curves", drawn(lines(roc, "1 - specificity", "sensitivity", diagonal=True), "ROC (area)")),
        (
            "Precision-recall curves",
            drawn(lines(recall, "recall", "precision"), "Precision and recall (average precision)"),
        ),
    ]
    note = "" if len(found) <= CURVES else f"the {CURVES} classes with the lowest area of {len(found)}"
    return Plots(images, "Curves", note)


MEASURED = ("sensitivity", "specificity")


def _points(at: dict[str, Any], chosen_on: Predictions) -> list[Block]:
    blocks: list[Block] = []
    for point, rows in at.items():
        cells = [
            [name, row["threshold"].text(), *(one for key in MEASURED for one in (row[key].text(), str(row[key].n)))]
            for name, row in rows.items()
        ]
        note = f"thresholds chosen on {chosen_on.split.name} ({len(chosen_on)} images)"
        heads = ["class", "threshold", "sensitivity", "images with it", "specificity", "without it"]
        blocks.append(Table(heads, cells[:CLASSES], f"Operating point {point}", note))
    return blocks
