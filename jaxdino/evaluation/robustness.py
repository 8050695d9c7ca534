"""The section of robustness: errors on corrupted images, and their mean, mCE."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from jaxdino.core.bars import bar
from jaxdino.evaluation.context import Context
from jaxdino.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from jaxdino.evaluation.figure import Figure
from jaxdino.evaluation.intervals import bootstrap, of_bootstrap
from jaxdino.evaluation.predictions import batches_of, forward, joined_batches, spread, spread_places
from jaxdino.evaluation.resampled import mean_of
from jaxdino.evaluation.section import Notes, Section, Table

NOTE = "errors: shares of images (of decisions, with several classes an image) that are wrong"
MEANING = (
    "mCE is the mean error over all corruptions and severities; ImageNet-C divides by the errors of an AlexNet, which "
    "exist for ImageNet alone. Relative mCE is the mean error minus the error on the clean images.",
    "The numbers of ImageNet-C are for 224 x 224 pixels and are taken as they are at any size: small images are hit "
    "harder, so compare models of one size.",
    "Differences from the published images: frost is generated, not photographed; glass blur swaps by one pattern; "
    "results other than JPEG files are not rounded to 8 bits, nor saved as JPEG.",
)


def wrong(context: Context, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the error of each image (N,): 0 or 1, or the share of wrong decisions with several classes an image."""
    if context.run.several:
        given = expit(np.asarray(logits, np.float64)) >= np.asarray(context.thresholds).reshape(1, -1)
        return (given != (labels > 0.5)).mean(axis=1)
    return (logits.argmax(axis=1) != labels).astype(np.float64)


def robustness(context: Context) -> list[Section]:
    """Measure the errors under each corruption and severity."""
    channels = len(context.run.model.card.spec.preprocess.mean)
    if channels != 3:
        why = f"corruptions are defined for red, green and blue, and the model takes {channels} channels"
        return [Section("robustness", "Robustness", {"why": why}, [Notes([f"Not computed: {why}."])])]
    rows = _errors(context)
    clean, errors = rows["clean"], {name: rows[name] for name in CORRUPTIONS}
    n = len(clean)
    each = {f"{name}/{level}": errors[name][:, level - 1] for name in errors for level in SEVERITIES}
    means = {name: rows.mean(axis=1) for name, rows in errors.items()}
    mce = np.mean(list(means.values()), axis=0)
    values = {"clean": clean, **each, **means, "mce": mce, "relative_mce": mce - clean}
    how = context.resampling_of(rows["index"])
    spans = bootstrap(mean_of(values), n, how)
    figures = {
        key: of_bootstrap(float(one.mean()), n, (float(spans[key][0]), float(spans[key][1])), how)
        for key, one in values.items()
    }
    return [Section("robustness", "Robustness to common corruptions", _nested(figures, errors), _blocks(figures, n))]


def _nested(figures: dict[str, Figure], errors: dict[str, Any]) -> dict[str, Any]:
    whole = {name: figures[name] for name in ("clean", "mce", "relative_mce")}
    corruptions = {
        name: {"mean": figures[name], "severities": [figures[f"{name}/{level}"] for level in SEVERITIES]}
        for name in errors
    }
    return {**whole, "corruptions": corruptions}


def _blocks(figures: dict[str, Figure], n: int) -> list[Table | Notes]:
    rows = [
        [
            name.replace("_", " "),
            figures[name].text(),
            *(figures[f"{name}/{level}"].text().split(" ")[0] for level in SEVERITIES),
        ]
        for name in CORRUPTIONS
    ]
    heads = ["corruption", "mean error", *(f"severity {level}" for level in SEVERITIES)]
    names = {"clean": "error on clean images", "mce": "mCE", "relative_mce": "relative mCE"}
    whole = [[name, figures[key].text(), str(n), figures[key].kind] for key, name in names.items()]
    return [
        Table(["", "value (interval)", "images", "interval"], whole),
        Notes(MEANING),
        Table(heads, rows, "Errors", f"{n} images; {NOTE}"),
    ]


def _errors(context: Context) -> dict[str, np.ndarray]:
    """Return the errors "clean" (N,), for each corruption (N, 5), and "index" (N,), the images' numbers."""
    run, split = context.run, spread(context.split, context.settings.most_robust)
    field, key = run.fields[0].name, jax.random.key(context.settings.seed)
    predict = jax.jit(lambda flat, images: forward(run.model, flat, images)[0])
    batches, found = batches_of(run, split, context.settings.batch_size), []
    each = len(CORRUPTIONS) * len(SEVERITIES)

    def measured(batch: Any, watched: Any) -> dict[str, np.ndarray]:
        read, labels = batch["weight"] > 0, batch[field]
        images, places = jnp.asarray(batch["image"], jnp.float32) / 255, jnp.asarray(batch["index"], jnp.int32)
        clean = wrong(context, np.asarray(predict(run.model.flat, images)), labels)[read]
        rows = {"clean": clean, "index": np.asarray(batch["index"])[read]}
        for name in CORRUPTIONS:
            levels = []
            for level in SEVERITIES:
                logits = predict(run.model.flat, corrupted(name, level, key, images, places))
                levels.append(wrong(context, np.asarray(logits), labels)[read])
                watched.update()
            rows[name] = np.stack(levels, axis=1)
        return rows

    with bar(None, "corrupting", total=len(batches) * each, unit="batch") as watched:
        for number, batch in enumerate(batches):
            found.append(context.kept(f"robustness-{number:06d}", lambda batch=batch: measured(batch, watched)))
            watched.update((number + 1) * each - watched.n)  # also of a batch that was kept
    rows = joined_batches(found)
    rows["index"] = spread_places(len(context.split), context.settings.most_robust)[rows["index"]]
    return rows
