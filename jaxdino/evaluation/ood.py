"""The sections of other data: out-of-distribution detection on folders of strange images, and transfer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Split
from jaxdino.data.sources import load_source
from jaxdino.evaluation.context import Context
from jaxdino.evaluation.figure import Figure
from jaxdino.evaluation.finished_run import other_data
from jaxdino.evaluation.intervals import Resampling, bootstrap, of_bootstrap
from jaxdino.evaluation.metrics import given_classes, measured
from jaxdino.evaluation.ood_scores import SCORES, Known
from jaxdino.evaluation.predictions import Predictions
from jaxdino.evaluation.resampled import Ranking, Values, joined, mean_of
from jaxdino.evaluation.section import Block, Notes, Section, Table

RECALL = 0.95
NAMES = {"accuracy": "accuracy", "macro_f1": "macro F1", "macro_auc": "AUC"}


def strange(context: Context, folder: str) -> Split:
    """Return all images of a folder, without labels. Raise UserError if there are none."""
    given = DataConfig(name="images", root=folder, val_ratio=0.0)
    given = dataclasses.replace(given, sixteen_bit=context.run.data.sixteen_bit, max_pixels=context.run.data.max_pixels)
    try:
        split = next(iter(load_source(given).splits.values()))
    except UserError as err:
        raise UserError(f"--ood {folder}: {err}") from None
    zeros = np.zeros(len(split), np.int32)
    return dataclasses.replace(split, fields={context.run.fields[0].name: zeros})


def fpr(familiar: np.ndarray, odd: np.ndarray) -> float:
    """Return the share of strange images that pass where 95 % of the familiar ones do."""
    line = np.sort(familiar)[int(np.floor((1 - RECALL) * len(familiar)))]
    return float((odd >= line).mean())


def fpr_of(familiar: np.ndarray, odd: np.ndarray) -> Callable[[np.ndarray], Values]:
    """Return the statistic of pooled images, first the familiar ones, that gives `fpr` of each resample."""
    order, many = np.argsort(familiar, kind="stable"), len(familiar)

    def statistic(counts: np.ndarray) -> Values:
        known, strange = np.cumsum(counts[:, :many][:, order], axis=1), counts[:, many:]
        line = familiar[order][(known > np.floor((1 - RECALL) * known[:, -1:])).argmax(axis=1)]
        passed, below = (strange * (odd >= line.reshape(-1, 1))).sum(axis=1), strange.sum(axis=1)
        there = (below > 0) & (known[:, -1] > 0)
        return {"fpr95": np.divide(passed, below, out=below * np.nan, where=there)}

    return statistic


def ood(context: Context) -> list[Section]:
    """Measure how well each score tells the measured images from those of each --ood folder.

    Raises:
      UserError: for a folder without images.
    """
    if context.run.several:
        why = "the scores are for one class an image"
        return [Section("ood", "Out of distribution", {"why": why}, [Notes([f"Not computed: {why}."])])]
    own, train = context.found, context.train
    head = {name: np.asarray(context.run.model.flat[f"head.{name}"], np.float64) for name in ("kernel", "bias")}
    known = Known(train.features, train.labels, head["kernel"], head["bias"])
    familiar = {name: score(known, own.logits, own.features) for name, score in SCORES.items()}
    values: dict[str, Any] = {}
    blocks: list[Block] = []
    for folder in context.settings.ood:
        found = context.predict(strange(context, folder))
        rows, how = {}, pooled(context.resampling, len(found))
        for name, score in SCORES.items():
            rows[name] = _figures(familiar[name], score(known, found.logits, found.features), how)
        values[folder] = {"images": len(found), "unread": found.unread, "scores": rows}
        cells = [[name, row["auroc"].text(), row["fpr95"].text()] for name, row in rows.items()]
        note = f"{len(own)} images of {own.split.name}, {len(found)} of the folder; fitted on {len(train)} of train"
        blocks.append(Table(["score", "AUROC", "FPR at 95 % recall"], cells, folder, note))
    return [Section("ood", "Out of distribution", values, blocks)]


def _figures(familiar: np.ndarray, odd: np.ndarray, how: Resampling) -> dict[str, Figure]:
    """Return the figures of one score, of pooled images of which the first are the familiar ones."""
    from sklearn.metrics import roc_auc_score

    n = len(familiar) + len(odd)
    there, scores = np.arange(n) < len(familiar), np.concatenate([familiar, odd])
    ranking = Ranking(there.reshape(-1, 1), scores.reshape(-1, 1))
    spans = bootstrap(joined(ranking, fpr_of(familiar, odd)), n, how)
    values = {"auroc": float(roc_auc_score(there, scores)), "fpr95": fpr(familiar, odd)}
    pairs = {name: tuple(map(float, spans[key])) for name, key in (("auroc", "macro_auc"), ("fpr95", "fpr95"))}
    return {name: of_bootstrap(value, n, (pairs[name][0], pairs[name][1]), how) for name, value in values.items()}


def pooled(how: Resampling, strange: int) -> Resampling:
    """Return the resampling of the measured images and, after them, so many strange ones, each for itself."""
    if how.clusters is None:
        return how
    more = how.clusters.max() + 1 + np.arange(strange)
    return dataclasses.replace(how, clusters=np.concatenate([how.clusters, more]))


def transfer(context: Context) -> list[Section]:
    """Measure the model on each --also data set, and how far it falls from the measured images."""
    own = measured(context.found, context.thresholds, context.resampling).whole
    alone = dataclasses.replace(context.resampling, clusters=None)
    rows, values = [[context.found.split.name, str(len(context.found)), *(own[k].text() for k in NAMES), ""]], {}
    for folder in context.settings.also:
        found = context.predict(other_data(context.run, folder, context.settings.name, context.say, "--also"))
        whole = measured(found, context.thresholds, alone).whole
        drop = _drop(context, found, (context.resampling, alone))
        values[folder] = {"whole": whole, "drop": drop, "images": len(found), "unread": found.unread}
        rows.append([folder, str(len(found)), *(whole[k].text() for k in NAMES), drop.text()])
    table = Table(["data", "images", *NAMES.values(), "drop of accuracy"], rows)
    return [Section("transfer", "Other test sets", values, [table])]


def _drop(context: Context, found: Predictions, ways: tuple[Resampling, Resampling]) -> Figure:
    """Return how much lower the accuracy is, the two sets resampled independently."""
    parts: list[Any] = []
    for place, (one, how) in enumerate(zip((context.found, found), ways, strict=True)):
        right = (given_classes(one, context.thresholds) == one.there).all(axis=1).astype(float)
        own = dataclasses.replace(how, seed=how.seed + place)
        draws = np.concatenate([mean_of({"a": right})(counts)["a"] for counts in own.counts(len(right))])
        parts.append((right.mean(), draws))
    how = ways[0]
    low, high = np.percentile(parts[0][1] - parts[1][1], (50 * (1 - how.level), 50 * (1 + how.level)))
    n = len(context.found) + len(found)
    return of_bootstrap(float(parts[0][0] - parts[1][0]), n, (float(low), float(high)), how)
