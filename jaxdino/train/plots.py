"""Plots of a run over all its stages, as PNG, for each task."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Records = list[dict[str, Any]]
Painter = Callable[[Any, Records], None]
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280", "#4a5568")
MARGINS = dict(left=0.09, right=0.92, bottom=0.12, top=0.88)
"""Margins of the axes, wide enough for the longest labels. Computing the layout would double the time of a picture."""
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
    "axes.edgecolor": "#a0aec0",
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


def draw(records: Records, folder: Path, pictures: Mapping[str, Painter]) -> list[Path]:
    """Draw a PNG for each of `pictures` from the records of metrics.jsonl."""
    if not records:
        return []
    known = {name for record in records for name in record}
    measured = {name: paint for name, (paint, needs) in MEASURED.items() if needs & known}
    return [_picture(records, folder / f"{name}.png", paint) for name, paint in {**pictures, **measured}.items()]


def _picture(records: Records, file: Path, paint) -> Path:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.2))
        figure.subplots_adjust(**MARGINS)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        paint(axes, records)
        _stages(axes, records)
        _mark_single_points(figure)
        axes.set_xlabel("step")
        figure.savefig(file, dpi=130)
    return file


def _stages(axes: Any, records: Records) -> None:
    """Draw a shaded band and a name for each stage."""
    start = 0
    spans = _spans(records)
    for number, (name, end) in enumerate(spans):
        if number % 2:
            axes.axvspan(start, end, color="#edf2f7", zorder=0, linewidth=0)
        if number:
            axes.axvline(start, color="#a0aec0", linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            name,
            ((start + end) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            color="#4a5568",
            fontsize=9,
        )
        start = end
    axes.set_xlim(0, max(end for _, end in spans) * 1.01)
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=20)


def _mark_single_points(figure: Any) -> None:
    """Draw a dot for each line of one point, which would not be visible: a stage with one logged step."""
    for line in (line for axes in figure.axes for line in axes.get_lines()):
        if line.get_marker() == "None" and np.isfinite(np.asarray(line.get_ydata(), float)).sum() == 1:
            line.set(marker="o", markersize=4)


def _spans(records: Records) -> list[tuple[str, int]]:
    """Return [(stage, its last step)] in order."""
    spans: dict[str, int] = {}
    for record in records:
        spans[record["stage"]] = max(record["step"], spans.get(record["stage"], 0))
    return list(spans.items())


def _loss(axes: Any, records: Records) -> None:
    steps, losses = _series(records, "loss")
    axes.plot(steps, losses, color=COLOURS[0], alpha=0.3, linewidth=1, label="training, each logged step")
    axes.plot(steps, _smooth(losses), color=COLOURS[0], linewidth=1.8, label="training, smoothed")
    val_steps, val = _series(records, "val/loss")
    if len(val):
        axes.plot(val_steps, val, color=COLOURS[1], linewidth=1.8, marker="o", markersize=3.5, label="validation")
    axes.set_title("Loss")
    axes.set_ylim(bottom=0, top=1.05 * np.nanmax(np.concatenate([losses, val])))
    axes.legend(loc="best")


def _rates(axes: Any, records: Records) -> None:
    groups = list(dict.fromkeys(group for record in records for group in record.get("learning_rates", {})))
    widths = np.linspace(3.0, 1.4, max(len(groups), 2))  # curves with the same rate stay visible
    for colour, group, width in zip(COLOURS * len(groups), groups, widths, strict=False):
        for number, (stage, _) in enumerate(_spans(records)):
            points = [(r["step"], r["learning_rates"].get(group)) for r in records if r["stage"] == stage]
            steps, rates = zip(*points, strict=True)
            # A rate of 0 does not fit on a log axis; nothing is drawn while a stage freezes the group.
            label = group if not number else None
            axes.plot(steps, [rate or np.nan for rate in rates], color=colour, linewidth=width, label=label)
    axes.set_yscale("log")
    axes.set_title("Learning rate of each group")
    axes.legend(loc="lower left")


def _validated(axes: Any, records: Records, name: str, title: str) -> None:
    steps, values = _series(records, name)
    axes.plot(steps, values, color=COLOURS[0], linewidth=1.8, marker="o", markersize=4)
    axes.set_title(title)
    if len(values):
        best = int(np.argmax(values))
        label = f"best: {values[best]:.2%} at step {steps[best]}"
        axes.plot(steps[best], values[best], "o", color=COLOURS[1], markersize=8, zorder=3, label=label)
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)  # enough digits to tell the ticks apart
        axes.legend(loc="best")


def _speed(axes: Any, records: Records) -> None:
    other = axes.twinx()
    axes.plot(*_series(records, "images_per_second"), color=COLOURS[0], linewidth=1.6)
    steps, share = _series(records, "waiting")
    other.plot(steps, 100 * share, color=COLOURS[1], linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("images per second")
    other.set_ylim(0, 100)
    other.set_ylabel("time waiting for data, %")
    other.grid(False)
    axes.set_title("Speed")
    axes.legend([axes.get_lines()[0], other.get_lines()[0]], ["images per second", "waiting for data"], loc="best")


def _memory(axes: Any, records: Records) -> None:
    kinds = {"device_memory_gib": "device, peak so far", "process_memory_gib": "process"}
    for colour, (name, label) in zip(COLOURS, kinds.items(), strict=False):
        steps, used = _series(records, name)
        if len(used):
            axes.plot(steps, used, color=colour, linewidth=1.8, label=label)
    axes.set_title("Memory, GiB")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")


MEASURED: dict[str, tuple[Painter, set[str]]] = {
    "speed": (_speed, {"images_per_second"}),
    "memory": (_memory, {"device_memory_gib", "process_memory_gib"}),
}
"""Plots of every run: {file name: (painter, metrics of which one must be known)}."""


def _series(records: Records, name: str) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    return np.array([step for step, _ in pairs]), np.array([value for _, value in pairs], float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Smooth with a running mean over a tenth of the points, narrower at both ends."""
    half = max(1, len(values) // 20)
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def supervised(name: str, title: str) -> dict[str, Painter]:
    """Return the plots of a run with labels: {file name: painter}.

    Args:
      name, title: the metric that is shown beside loss and learning rates, "val/accuracy", and what it is called.
    """
    shown = partial(_validated, name=name, title=title)
    return {"loss": _loss, "learning_rates": _rates, name.replace("/", "_"): shown}


def distillation(baseline: Mapping[str, float]) -> dict[str, Painter]:
    """Return the plots of a self-distillation run: {file name: painter}.

    Args:
      baseline: k-NN accuracy before the first step: {"start": of the initial weights, "pixels": of raw pixels}, or {}.
    """
    pictures = {"loss": _loss, "learning_rates": _rates, "entropy": _entropy, "features": _features}
    return pictures | ({"knn_accuracy": partial(_knn, baseline=baseline)} if baseline else {})


def _entropy(axes: Any, records: Records) -> None:
    series = {
        "marginal_entropy": "mean output of the batch",
        "teacher_entropy": "output for one image",
        "information": "their difference: information",
    }
    for colour, (name, label) in zip(COLOURS, series.items(), strict=False):
        axes.plot(*_series(records, name), color=colour, linewidth=1.6, label=label)
    steps, below = _series(records, "kl_to_uniform")
    most = below + _series(records, "teacher_entropy")[1]
    axes.plot(steps, most, color=COLOURS[5], linewidth=1, linestyle=(0, (4, 3)), label="uniform")
    axes.set_title("Entropy of the teacher's outputs, nats")
    axes.set_ylim(bottom=0, top=1.5 * np.max(most, initial=1e-3))  # room for the legend
    axes.legend(loc="upper right", ncols=2)


def _features(axes: Any, records: Records) -> None:
    other = axes.twinx()
    for at, key, colour, label, unit in (
        (axes, "feature_rank", COLOURS[0], "rank (RankMe)", "rank"),
        (other, "feature_std", COLOURS[1], "spread (1 is even)", "spread"),
    ):
        steps, values = _series(records, key)
        at.plot(steps, values, color=colour, linewidth=1.6, label=label)
        at.set_ylim(bottom=0, top=1.1 * np.nanmax(values, initial=1e-3))
        at.set_ylabel(unit)
    other.grid(False)
    axes.set_title("The teacher's features over a batch")
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines[:1] + lines[-1:], [line.get_label() for line in lines[:1] + lines[-1:]], loc="lower right")


def _knn(axes: Any, records: Records, baseline: Mapping[str, float]) -> None:
    steps, accuracy = _series(records, "val/knn_accuracy")
    steps, accuracy = np.append(0, steps), np.append(baseline["start"], accuracy)
    axes.plot(steps, accuracy, color=COLOURS[0], linewidth=1.8, marker="o", markersize=3.5, label="the teacher")
    axes.axhline(baseline["pixels"], color=COLOURS[5], linewidth=1.2, linestyle=(0, (4, 3)), label="raw pixels")
    axes.set_title("k-NN accuracy on the validation images")
    axes.legend(loc="lower right")
