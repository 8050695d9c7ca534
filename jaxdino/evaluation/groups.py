"""Metrics of each group of images, so that bias shows: by the values of a column."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdino.evaluation.figure import Figure
from jaxdino.evaluation.intervals import Resampling, bootstrap
from jaxdino.evaluation.metrics import given_classes, measured
from jaxdino.evaluation.predictions import Predictions
from jaxdino.evaluation.resampled import Values
from jaxdino.evaluation.section import Notes, Section, Table

SHOWN = 30
"""Groups in a table of the page; the JSON file has all."""
MOST = 1000
"""Most groups that are measured."""
SMALL = 10
"""Groups of fewer images are marked: their figures say little."""
NAMES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "macro_auc": "AUC"}


def groups(found: Predictions, columns: dict[str, np.ndarray], thresholds: Sequence[float], how: Resampling) -> Section:
    """Return metrics for each value of each column, and the difference of the best and the worst group."""
    blocks, values = [], {}
    for column, of_image in columns.items():
        names, codes, counts = np.unique(of_image, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:MOST]
        rows = {str(names[code]): _group(found, np.flatnonzero(codes == code), thresholds, how) for code in order}
        gap = _gap(found, codes, counts, thresholds, how)
        values[column] = {"groups": rows, "not_measured": max(0, len(names) - MOST), **gap}
        blocks += _shown(column, rows, gap["accuracy_difference"])
    return Section("groups", "Groups", values, blocks)


def _group(found: Predictions, rows: np.ndarray, thresholds: Sequence[float], how: Resampling) -> dict[str, Figure]:
    whole = measured(found.rows(rows), thresholds, how.of_rows(rows)).whole
    return {"images": Figure(len(rows), len(rows), method="a count")} | {
        name: whole[name] for name in NAMES if name in whole
    }


def _gap(
    found: Predictions, codes: np.ndarray, counts: np.ndarray, thresholds: Sequence[float], how: Resampling
) -> dict[str, Any]:
    """Return how far the accuracies of the groups are apart, of those with at least `SMALL` images."""
    kept = np.flatnonzero(counts >= SMALL)
    if len(kept) < 2:
        why = f"fewer than two groups have {SMALL} images"
        return {"accuracy_difference": Figure(None, len(found), why=why)}
    right = (given_classes(found, thresholds) == found.there).all(axis=1).astype(float)
    member = (codes.reshape(-1, 1) == kept).astype(float)
    means = (right @ member) / member.sum(axis=0)
    best, worst = int(means.argmax()), int(means.argmin())

    def difference(drawn: np.ndarray) -> Values:
        sums, sizes = (drawn * right) @ member[:, [best, worst]], drawn @ member[:, [best, worst]]
        each = np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)
        return {"gap": each[:, 0] - each[:, 1]}

    low, high = bootstrap(difference, len(found), how)["gap"]
    n = int(counts[kept[best]] + counts[kept[worst]])
    interval = (None, None) if np.isnan(low) else (float(low), float(high))
    method = f"{how.method}; of these two groups, chosen by the data: the difference is overestimated"
    return {"accuracy_difference": Figure(float(means[best] - means[worst]), n, *interval, method)}


def _shown(column: str, rows: dict[str, dict[str, Figure]], gap: Figure) -> list[Table | Notes]:
    names = {key: name for key, name in NAMES.items() if any(key in row for row in rows.values())}
    cells = []
    ordered = sorted(rows.items(), key=lambda item: item[1]["accuracy"].value or 0.0)
    for name, row in ordered[:SHOWN]:
        few = " *" * (row["images"].n < SMALL)
        cells.append([f"{name}{few}", str(row["images"].n), *(row[key].text() for key in names)])
    note = f"lowest accuracy first; * fewer than {SMALL} images"
    note += f"; {len(rows) - SHOWN} more groups are in evaluation.json" if len(rows) > SHOWN else ""
    table = Table([column, "images", *names.values()], cells, f"By {column}", note)
    line = f"Accuracy of the best and of the worst group by {column} differ by {gap.text()}."
    return [table, Notes([line if gap.value is not None else f"Difference between groups: {gap.why}."])]


def clustered(how: Resampling, column: str, of_image: np.ndarray) -> Resampling:
    """Return the resampling that draws whole groups of a column."""
    return dataclasses.replace(how, clusters=np.unique(of_image, return_inverse=True)[1], by=column)
