"""The section of calibration: the model as it is, and by each method fitted on validation images."""

from typing import Any

import numpy as np
from scipy.special import expit, softmax

from jaxdino.evaluation.calibration.fitting import FITS, doubt, fitted
from jaxdino.evaluation.calibration.measures import NAMES, measures, reliability
from jaxdino.evaluation.context import Context
from jaxdino.evaluation.drawing import COLOURS, GRID, Paint, drawn
from jaxdino.evaluation.predictions import Predictions
from jaxdino.evaluation.section import Notes, Plots, Section, Table

FOLDS = 5
RAW = "not calibrated"
BIASED = (
    "ECE of few images is too high, and more so of resampled ones: its interval can lie above the value, and tells "
    "methods apart on the same images only"
)


def calibration(context: Context) -> list[Section]:
    """Measure the probabilities before calibration, by each method, and as kept with the model."""
    found, kept = context.found, context.run.model.card.calibration
    odds = {RAW: _raw(found)} | {method: _odds(context, method) for method in FITS}
    values: dict[str, Any] = {"kept": kept.method if kept else None, "methods": {}}
    rows = []
    for name, each in odds.items():
        figures = measures(each, found.labels, context.resampling)
        lines = reliability(each, found.labels, context.resampling)
        values["methods"][name] = {**figures, "reliability": lines}
        mark = " (kept)" if kept and kept.method == name else ""
        rows.append([name + mark, *(figures[key].text() for key in NAMES)])
    shown = [RAW, kept.method if kept else "temperature"]
    plots = [
        (f"Reliability, {name}", drawn(_reliability(values["methods"][name]["reliability"]), f"Reliability: {name}"))
        for name in shown
    ]
    note = f"{len(found)} images; lower is better; {_how(context)}. {BIASED}"
    table = Table(["method", *NAMES.values()], rows, note=note)
    note = "dashed: perfect calibration; the area of a point: its number of images; vertical lines: Wilson's intervals"
    return [Section("calibration", "Calibration", values, [table, _advice(context), Plots(plots, note=note)])]


def _raw(found: Predictions) -> np.ndarray:
    return expit(found.logits) if found.several else softmax(found.logits, axis=1)


def _odds(context: Context, method: str) -> np.ndarray:
    """Return the calibrated probabilities of the measured images, by a fit that has not seen them.

    They are those of a fit on the validation images; if these are measured themselves, of fits on four fifths of them.
    """
    found = context.found
    if not context.optimistic:
        own = context.validation
        return fitted(method, own.logits, own.labels).odds(found.logits, found.several)
    from sklearn.model_selection import KFold

    result = np.empty_like(found.logits)
    for rows, others in KFold(min(FOLDS, len(found)), shuffle=True, random_state=context.settings.seed).split(result):
        fit = fitted(method, found.logits[rows], found.labels[rows])
        result[others] = fit.odds(found.logits[others], found.several)
    return result


def _how(context: Context) -> str:
    if context.optimistic:
        return f"fitted on four fifths of these images and measured on the others, {FOLDS} times"
    return f"fitted on {len(context.validation)} images of val"


def _advice(context: Context) -> Notes:
    kept, why = context.run.model.card.calibration, doubt(context.validation.logits, context.validation.labels)
    line = (
        "No calibration is kept with the model: --calibrate temperature (or vector, isotonic) keeps one, which predict "
        "then uses."
    )
    if kept is not None:
        line = f"The calibration {kept.method!r} is kept with the model: predict and exports use it; --calibrate none "
        line += "drops it."
    return Notes([line, *([f"Do not rely on the fits: {why}."] if why else [])])


def _reliability(bins: list[dict[str, Any]]) -> Paint:
    def paint(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2, linestyle="--")
        across, up, sizes = zip(*((one["confidence"], one["accuracy"], one["n"]) for one in bins), strict=True)
        axes.plot(across, up, color=COLOURS[0], linewidth=1)
        spans = [(one["confidence"], one["low"], one["high"]) for one in bins if one["low"] is not None]
        if spans:
            at, low, high = zip(*spans, strict=True)
            axes.vlines(at, low, high, color=COLOURS[0], linewidth=1, alpha=0.6)
        axes.scatter(across, up, s=12 + 180 * np.array(sizes) / sum(sizes), color=COLOURS[0], alpha=0.8)
        axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))

    return paint
