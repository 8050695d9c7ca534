"""The sections of other data: out-of-distribution detection on folders of strange images, and transfer."""

import dataclasses
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
from jaxdino.evaluation.resampled import Ranking, mean_of
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
    how = dataclasses.replace(context.resampling, clusters=None)
    values: dict[str, Any] = {}
    blocks: list[Block] = []
    for folder in context.settings.ood:
        found = context.predict(strange(context, folder))
        rows = {}
        for name, score in SCORES.items():
            odd = score(known, found.logits, found.features)
            rows[name] = {"auroc": _auroc(familiar[name], odd, how), "fpr95": _fpr(familiar[name], odd, how)}
        values[folder] = {"images": len(found), "unread": found.unread, "scores": rows}
        cells = [[name, row["auroc"].text(), row["fpr95"].text()] for name, row in rows.items()]
        note = f"{len(own)} images of {own.split.name}, {len(found)} of the folder; fitted on {len(train)} of train"
        blocks.append(Table(["score", "AUROC", "FPR at 95 % recall"], cells, folder, note))
    return [Section("ood", "Out of distribution", values, blocks)]


def _auroc(familiar: np.ndarray, odd: np.ndarray, how: Resampling) -> Figure:
    from sklearn.metrics import roc_auc_score

    there = np.arange(len(familiar) + len(odd)) < len(familiar)
    scores = np.concatenate([familiar, odd])
    spans = bootstrap(Ranking(there.reshape(-1, 1), scores.reshape(-1, 1)), len(there), how)["macro_auc"]
    return of_bootstrap(float(roc_auc_score(there, scores)), len(there), (float(spans[0]), float(spans[1])), how)


def _fpr(familiar: np.ndarray, odd: np.ndarray, how: Resampling) -> Figure:
    rng, found = np.random.default_rng(how.seed), []
    for _ in range(how.count):
        found.append(fpr(rng.choice(familiar, len(familiar)), rng.choice(odd, len(odd))))
    low, high = np.percentile(found, (50 * (1 - how.level), 50 * (1 + how.level)))
    interval = (np.nan, np.nan) if low == high else (float(low), float(high))
    return of_bootstrap(fpr(familiar, odd), len(familiar) + len(odd), interval, how)


def transfer(context: Context) -> list[Section]:
    """Measure the model on each --also data set, and how far it falls from the measured images."""
    how = dataclasses.replace(context.resampling, clusters=None)
    own = measured(context.found, context.thresholds, how).whole
    rows, values = [[context.found.split.name, str(len(context.found)), *(own[k].text() for k in NAMES), ""]], {}
    for folder in context.settings.also:
        found = context.predict(other_data(context.run, folder, context.settings.name, context.say, "--also"))
        whole = measured(found, context.thresholds, how).whole
        drop = _drop(context, found, how)
        values[folder] = {"whole": whole, "drop": drop, "images": len(found), "unread": found.unread}
        rows.append([folder, str(len(found)), *(whole[k].text() for k in NAMES), drop.text()])
    table = Table(["data", "images", *NAMES.values(), "drop of accuracy"], rows)
    return [Section("transfer", "Other test sets", values, [table])]


def _drop(context: Context, found: Predictions, how: Resampling) -> Figure:
    """Return how much lower the accuracy is, the two sets resampled independently."""
    parts: list[Any] = []
    for place, one in enumerate((context.found, found)):
        right = (given_classes(one, context.thresholds) == one.there).all(axis=1).astype(float)
        own = dataclasses.replace(how, seed=how.seed + place)
        draws = np.concatenate([mean_of({"a": right})(counts)["a"] for counts in own.counts(len(right))])
        parts.append((right.mean(), draws))
    low, high = np.percentile(parts[0][1] - parts[1][1], (50 * (1 - how.level), 50 * (1 + how.level)))
    n = len(context.found) + len(found)
    return of_bootstrap(float(parts[0][0] - parts[1][0]), n, (float(low), float(high)), how)
