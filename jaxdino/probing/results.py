"""The results of a probe: summary.json, sweep.csv, the heads, the table and the surface of the sweep."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdino.core.table import format_table
from jaxdino.probing.put_back import folded
from jaxdino.probing.selection import Outcome

SUMMARY, SURFACE, SWEEP, HEADS, BEST = "summary.json", "surface.png", "sweep.csv", "heads", "best"
FILES = (SUMMARY, SURFACE, SWEEP, HEADS, BEST)
"""What a probe writes into its folder."""
INCHES = 3.4  # width and height of a plot


def write_sweep(file: Path, outcomes: Sequence[Outcome], seeds: Sequence[int]) -> None:
    """Write a line for each head that was trained: method, input, seed, fold, score and settings."""
    names = list(dict.fromkeys(name for one in outcomes for setting in one.method.settings for name in setting))
    with file.open("w", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(["method", "input", "seed", "fold", "score", "converged", *names])
        for one in outcomes:
            for (setting, seed, fold), score in np.ndenumerate(one.scores):
                values = [one.method.settings[setting].get(name, "") for name in names]
                where = [seeds[seed] if one.method.seeded else "", fold if one.sets.folds else ""]
                reached = "" if one.converged is None else int(one.converged[setting, seed, fold])
                lines.writerow([one.method.name, one.sets.name, *where, f"{score:.6f}", reached, *values])


def save_heads(folder: Path, outcome: Outcome, class_names: Sequence[str]) -> None:
    """Save the chosen head of a method as .npz; a linear one for features that are not standardised."""
    folder.mkdir(exist_ok=True)
    names: dict[str, Any] = {"class_names": np.array(class_names), "features": np.array(outcome.sets.parts)}
    if outcome.method.linear:
        kernel, bias = folded(outcome.heads[0], outcome.sets.mean, outcome.sets.scale)
        np.savez(folder / f"{outcome.method.name}.npz", kernel=kernel, bias=bias, **names)
        return
    leaves = jax.tree_util.tree_flatten_with_path(outcome.heads[0])[0]
    arrays: dict[str, Any] = {".".join(str(part.key) for part in path): np.asarray(leaf)[0] for path, leaf in leaves}
    np.savez(folder / f"{outcome.method.name}.npz", **arrays, **names)


def table(methods: Mapping[str, Mapping[str, Any]], monitor: str) -> str:
    """Format a line for each method: its choice, and what it measures on val and test."""
    rows = [["method", "input", "chosen", "heads", f"val/{monitor}", f"test/{monitor}", "seconds"]]
    for name, found in methods.items():
        if "reason" in found:
            rows.append([name, "", f"not computed: {found['reason']}", "", "", "", ""])
            continue
        settings = ", ".join(f"{key} {value:.3g}" for key, value in found["settings"].items()) or "-"
        heads, seconds = str(found.get("heads", "-")), found.get("seconds")
        heads += f", {found['not_converged']} not converged" if found.get("not_converged") else ""
        both = (percent(found["val"]), percent(found["test"]))
        rows.append([name, found["input"], settings, heads, *both, "-" if seconds is None else f"{seconds:.1f}"])
    return format_table(rows, left=3)


def percent(found: Mapping[str, Any]) -> str:
    """Format a value with its interval and number of images."""
    if found["value"] is None:
        return f"none: {found['reason']}"
    interval = found["interval"]
    ends = f" [{interval[0]:.2%}, {interval[1]:.2%}]" if interval else ""
    return f"{found['value']:.2%}{ends} n={found['n']}"


def draw(file: Path, outcomes: Sequence[Outcome], monitor: str) -> bool:
    """Draw the score on validation over what was swept: a map for two settings, a line for one.

    Returns:
      whether anything was swept; otherwise no file is written.
    """
    shown = [one for one in outcomes if len(one.method.settings) > 1]
    if not shown:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(INCHES * columns + 0.6, INCHES * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for place, one in enumerate(shown):
        axes = figure.add_subplot(lines, columns, place + 1)
        paint = _map if "learning_rate" in one.settings else _line
        paint(axes, one)
        axes.set_title(f"{one.method.name}, {one.sets.name}: {one.score:.2%}", fontsize=9)
    figure.suptitle(f"val/{monitor}; the chosen settings are marked", fontsize=9)
    figure.savefig(file, dpi=120)
    return True


def _map(axes: Any, outcome: Outcome) -> None:
    """Draw learning rate by weight decay; of several smoothings, the best."""
    settings, means = outcome.method.settings, outcome.scores.mean(axis=(1, 2))
    rates = sorted({one["learning_rate"] for one in settings})
    decays = sorted({one["weight_decay"] for one in settings})
    grid = np.full((len(decays), len(rates)), np.nan)
    for one, score in zip(settings, means, strict=True):
        row, column = decays.index(one["weight_decay"]), rates.index(one["learning_rate"])
        grid[row, column] = np.fmax(grid[row, column], score)
    shown = axes.imshow(grid, aspect="auto", origin="lower", cmap="viridis")
    chosen = outcome.settings
    axes.plot(rates.index(chosen["learning_rate"]), decays.index(chosen["weight_decay"]), "r*", markersize=10)
    axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates], rotation=90, fontsize=7)
    axes.set_yticks(range(len(decays)), [f"{decay:g}" for decay in decays], fontsize=7)
    axes.set_xlabel("learning rate", fontsize=8)
    axes.set_ylabel("weight decay", fontsize=8)
    axes.figure.colorbar(shown, ax=axes).ax.tick_params(labelsize=7)


def _line(axes: Any, outcome: Outcome) -> None:
    (name,) = outcome.settings
    values = [one[name] for one in outcome.method.settings]
    means = outcome.scores.mean(axis=(1, 2))
    axes.plot(values, means, marker=".")
    axes.plot(values[outcome.best], means[outcome.best], "r*", markersize=10)
    axes.set_xscale("log")
    axes.set_xlabel(name, fontsize=8)
    axes.tick_params(labelsize=7)


def report(summary: Mapping[str, Any], monitor: str, out: Path, say: Callable[[str], None]) -> None:
    """Print what was measured; `say` gets the notes."""
    print(table(summary["methods"], monitor))
    for n, found in summary["few_shot"].items():
        for name in ("nearest_mean", "knn"):
            one = found[name]
            std = "" if one["std"] is None else f" ± {one['std']:.2%}"
            where = f"{found['images']} images of {found['measured_on']}"
            print(f"{n} a class, {name}: {one['mean']:.2%}{std} over {one['n']} draws, {where}")
    for name, found in summary["methods"].items():
        if not found.get("chosen_converged", True):
            say(f"{name}: the chosen head did not converge: its gradient is still above the tolerance")
        if edges := found.get("at_edge"):
            say(
                f"{name}: the chosen {' and '.join(edges)} is at the edge of what was tried: a wider grid may be better"
            )
    seconds, model = summary["seconds"], summary["model"]
    print(f"{summary['heads']} heads; sweep {seconds['sweep']:.1f} s, all {seconds['total']:.1f} s; results in {out}")
    print(f"model: {model['folder']}" if model["folder"] else f"model: none: {model['reason']}")
