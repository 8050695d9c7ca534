"""The page of a comparison: the recommendation, results, costs, curves, calibration, forgetting, and the runs."""

from collections.abc import Sequence
from typing import Any

from jaxdino.api.history import History
from jaxdino.comparison.forgotten import forgotten
from jaxdino.comparison.measured import Measured
from jaxdino.comparison.recommendation import Recommendation
from jaxdino.comparison.statistics import ERRORS, Strategy, is_share, over_seeds, words
from jaxdino.core.errors import UserError
from jaxdino.evaluation.drawing import COLOURS, Paint, drawn, lines
from jaxdino.evaluation.section import Notes, Plots, Section, Table

SHOWN = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "miou",
    "pixel_accuracy",
    "map",
    "map50",
    "mask_map",
    "pq",
    "rmse",
    "delta1",
)
"""Metrics at the end that are shown, beside the one that chooses."""
CALIBRATION = {"nll": "log loss", "brier": "Brier score", "ece_width": "ECE", "overconfidence": "confidence - accuracy"}


def sections(
    strategies: Sequence[Strategy], found: Recommendation, metric: str, probe: dict[str, Any] | None
) -> list[Section]:
    """Return the sections; `probe` is what is said of the held-back set, None without one."""
    made = [_recommendation(found), _results(strategies, found, metric), _costs(strategies)]
    made.append(_curves(strategies, metric))
    if strategies[0].runs[0].found["calibration"]:
        made.append(_calibration(strategies))
    return [*made, *([forgotten(strategies, probe)] if probe is not None else []), _runs(strategies, metric)]


def _recommendation(found: Recommendation) -> Section:
    head = f"Recommended: {found.name}." if found.name else "Nothing is recommended."
    values = {"name": found.name, "reasons": list(found.reasons)}
    return Section("recommendation", "Recommendation", values, [Notes([head, *found.reasons])])


def _results(strategies: Sequence[Strategy], found: Recommendation, metric: str) -> Section:
    first = strategies[0].runs[0].found
    split, values, rows, spans = first["split"], {}, [], []
    names = [name for name in dict.fromkeys((metric, *SHOWN)) if name in first["measured"]]
    names = [name for name in names if (split, name) != ("val", metric)]
    for one in strategies:
        columns = {name: one.values("measured", name) for name in names}
        val, gap = one.values("val", metric), found.gaps.get(one.name)
        each = {f"val/{metric}": val, **{f"{split}/{name}": seen for name, seen in columns.items()}}
        values[one.name] = {**each, "mean": {name: over_seeds(list(seen.values())) for name, seen in each.items()}}
        far = "over a limit"
        if gap is not None:
            values[one.name]["gap"] = {"value": gap.value, "noise": gap.noise, "within_noise": gap.means_nothing}
            far = f"{gap.value:.3f} ({gap.error})" if gap.value else "best"
        cells = [words(list(seen.values())) for seen in (val, *columns.values())]
        rows.append([one.name, str(len(one.runs)), cells[0], far, *cells[1:]])
        spans.append([one.name, *(mean.text() for mean in values[one.name]["mean"].values())])
    tested = "" if split == "val" else f", {first['images']:,} of {split}"
    note = (
        f"mean and standard deviation (SD) over seeds; {first['val_images']:,} images of val{tested}. The gap is to "
        f"the best strategy, on val; within its noise it means nothing: {_noise(metric)}."
    )
    measured = [f"val {metric}", *(f"{split} {name.replace('_', ' ')}" for name in names)]
    table = Table(["strategy", "runs", measured[0], "gap on val", *measured[1:]], rows, note=note)
    guide = "mean over seeds and its 95 % t interval: a guide, since the images are the same; none of one run"
    return Section("results", "Results", values, [table, Table(["strategy", *measured], spans, note=guide)])


def _noise(metric: str) -> str:
    """Return what the noise of a gap is made of."""
    if is_share(metric):
        return f"{ERRORS:g} standard errors, from seeds and from the number of images"
    return "that of the seeds alone, the half width of a 95 % t interval, since this metric is no share of images"


def _costs(strategies: Sequence[Strategy]) -> Section:
    values, rows = {}, []
    of = next((run.found["memory_of"] for one in strategies for run in one.runs if run.found["memory_of"]), "")
    for one in strategies:
        figures = {name: one.mean(name) for name in ("seconds", "memory_gib", "trainable", "trainable_params")}
        values[one.name] = figures | {"mean_seconds": over_seeds([run.found["seconds"] for run in one.runs])}
        times = [run.found["seconds"] for run in one.runs]
        memory = "-" if figures["memory_gib"] is None else f"{figures['memory_gib']:.2f} GiB"
        share = f"{100 * (figures['trainable'] or 0):.2f} %"
        rows.append([one.name, words(times, ".0f"), memory, share])
    note = f"time of all stages, without the start of the program; memory: {of}; % trainable: of the stage with most"
    heads = ["strategy", "seconds", "memory", "% trainable"]
    return Section("costs", "Costs", values, [Table(heads, rows, note=note)])


def _curves(strategies: Sequence[Strategy], metric: str) -> Section:
    images = [
        (name, drawn(_series(strategies, key), name, size=(6.4, 3.5)))
        for name, key in ((f"val {metric}", f"val/{metric}"), ("training loss", "loss"))
    ]
    return Section("curves", "Curves", {}, [Plots(images, note="a line for each run; the colour is the strategy's")])


def _series(strategies: Sequence[Strategy], key: str) -> Paint:
    def paint(axes: Any) -> None:
        for place, one in enumerate(strategies):
            label: str | None = one.name
            for run in one.runs:
                try:
                    steps, seen = History.load(run.folder).series(key)
                except UserError:  # a metric that this run does not have
                    continue
                colour = COLOURS[place % len(COLOURS)]
                dot = "o" if len(steps) == 1 else ""  # a line of one point is not visible
                axes.plot(steps, seen, color=colour, linewidth=1.2, alpha=0.8, label=label, marker=dot)
                label = None
        axes.set(xlabel="training step", ylabel=key)
        axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    return paint


def _calibration(strategies: Sequence[Strategy]) -> Section:
    values, rows, curves = {}, [], []
    for one in strategies:
        figures = {
            name: [run.found["calibration"][name]["value"] for run in one.runs if name in run.found["calibration"]]
            for name in CALIBRATION
        }
        kept = {name: [value for value in seen if value is not None] for name, seen in figures.items()}
        values[one.name] = figures | {"mean": {name: over_seeds(seen) for name, seen in kept.items()}}
        rows.append([one.name, *(words(seen) for seen in kept.values())])
        bins = sorted((row for run in one.runs for row in run.found["reliability"]), key=lambda row: row["confidence"])
        curves.append((one.name, *_pooled(bins)))
    plot = drawn(lines(curves, "confidence", "share that is right", diagonal=True), "Reliability", size=(6.4, 3.5))
    table = Table(
        ["strategy", *CALIBRATION.values()],
        rows,
        note="as the models are; lower is better, confidence - accuracy nearer to 0",
    )
    return Section("calibration", "Calibration", values, [table, Plots([("Reliability", plot)])])


def _pooled(bins: Sequence[dict[str, Any]], count: int = 10) -> tuple[list[float], list[float]]:
    """Return confidence and accuracy of the bins of all runs, joined to tenths."""
    across, up = [], []
    for place in range(count):
        rows = [row for row in bins if min(int(row["confidence"] * count), count - 1) == place]
        if total := sum(row["n"] for row in rows):
            across.append(sum(row["n"] * row["confidence"] for row in rows) / total)
            up.append(sum(row["n"] * row["accuracy"] for row in rows) / total)
    return across, up


def _runs(strategies: Sequence[Strategy], metric: str) -> Section:
    rows = [[run.run.name, *row_of(run, metric)] for one in strategies for run in one.runs]
    values = [{"run": run.run.name, "folder": str(run.folder), **run.found} for one in strategies for run in one.runs]
    heads = ["run", "seed", "val", "at the end", "stages and epochs", "seconds"]
    return Section("runs", "Runs", values, [Table(heads, rows)])


def row_of(run: Measured, metric: str) -> list[str]:
    """Return the cells of a run: seed, metric on val and at the end, its stages, its seconds."""
    found = run.found
    values = [found[split].get(metric) for split in ("val", "measured")]
    stages = ", ".join(f"{one['name']} {one['epochs']}" for one in found["stages"])
    cells = ["-" if value is None else f"{value:.4f}" for value in values]
    return [str(found["seed"]), *cells, stages, f"{found['seconds']:.0f}"]
