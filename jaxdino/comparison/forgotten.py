"""The section of forgetting: the held-back set after each stage, and how far each layer has moved."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdino.comparison.statistics import Strategy, words
from jaxdino.evaluation.intervals import Resampling, share
from jaxdino.evaluation.section import Notes, Section, Table

SAME = "The runs train on this data: it shows what is learned, not what is forgotten; --probe_root gives other data."


def forgotten(strategies: Sequence[Strategy], probe: dict[str, Any]) -> Section:
    """Return the section.

    Args:
      probe: what is said of the held-back set: "data", "bank", "asked", "k", "C", and "same" if the runs train on it.
    """
    values: dict[str, Any] = {"probe": probe}
    rows, drift = [], []
    for one in strategies:
        runs = {run.run.seed: run.found["forgetting"] for run in one.runs if run.found["forgetting"]}
        values[one.name] = {seed: [_measured(row, probe["asked"]) for row in rows] for seed, rows in runs.items()}
        starts = [stages[0] for stages in runs.values()]
        for number, stages in enumerate(zip(*runs.values(), strict=True)):
            name = [one.name, stages[0]["stage"]]
            cells = []
            for key in ("knn", "linear"):
                moved = [row[key] - start[key] for row, start in zip(stages, starts, strict=True)]
                cells += [words([row[key] for row in stages]), words(moved, "+.3f") if number else "-"]
            rows.append([*name, *cells])
            if number:
                drift.append([*name, *_layers([row["cka"] for row in stages])])
    about = (
        f"k-NN (k = {probe['k']}) and logistic regression (C = {probe['C']:g}) on the features of the backbone, of "
        f"{probe['data']}: {probe['bank']:,} images are known, {probe['asked']:,} are asked."
    )
    lines = [about, *([SAME] if probe.get("same") else [])]
    table = Table(["strategy", "after", "k-NN", "change", "linear", "change"], rows, left=2)
    return Section("forgetting", "Forgetting", values, [Notes(lines), table, *_drift(drift)])


def _measured(row: dict[str, Any], asked: int) -> dict[str, Any]:
    """Return the entry of a stage with its accuracies as figures, of so many images."""
    return row | {key: share(round(row[key] * asked), asked, Resampling()) for key in ("knn", "linear")}


def _layers(rows: Sequence[Sequence[float | None]]) -> list[str]:
    """Return the mean CKA of each layer over runs, as cells."""
    seen = [[value for value in layer if value is not None] for layer in zip(*rows, strict=True)]
    return [f"{np.mean(values):.2f}" if values else "-" for values in seen]


def _drift(rows: Sequence[list[str]]) -> list[Table]:
    wide = max(map(len, rows), default=2)
    if wide == 2:
        return []
    heads = ["strategy", "after", *(f"layer {place}" for place in range(1, wide - 1))]
    note = "linear CKA with the backbone at the start, of mean patches; 1 is unchanged up to rotation and scale"
    cells = [[*row, *["-"] * (wide - len(row))] for row in rows]
    return [Table(heads, cells, "Similarity of each layer with its start (CKA)", note, left=2)]
