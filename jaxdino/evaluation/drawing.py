"""Draw with matplotlib into data URIs, in one style."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdino.core.page import data_uri

INK, GRID = "#2d3748", "#d8dce2"
COLOURS = ("#3f74c4", "#b3410b", "#23744b", "#8b5fb0", "#b8860b", "#2a8c9e", "#c4477d", "#6b7280", "#7a9a2e", "#a0522d")
Paint = Callable[[Any], None]


def drawn(paint: Paint, title: str, size: tuple[float, float] = (5.4, 3.5), dpi: int = 110) -> str:
    """Return one pair of axes as a PNG in a data URI. `paint` draws, given the axes."""
    import matplotlib

    style: dict[Any, Any] = {"font.size": 8.5, "text.color": INK, "axes.edgecolor": "#9aa2b0", "axes.labelcolor": INK}
    with matplotlib.rc_context(style):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
        paint(axes)
        axes.set_title(title, fontsize=9.5, fontweight="bold", loc="left", color=INK)
        file = io.BytesIO()
        figure.savefig(file, dpi=dpi)
    return data_uri(file.getvalue(), ".png")


def lines(
    curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], x: str, y: str, diagonal: bool = False
) -> Paint:
    """Return the paint of curves (name, x values, y values) in the unit square."""

    def paint(axes: Any) -> None:
        if diagonal:
            axes.plot([0, 1], [0, 1], color=GRID, linewidth=1, linestyle="--")
        for place, (name, across, up) in enumerate(curves):
            axes.plot(across, up, color=COLOURS[place % len(COLOURS)], linewidth=1.4, label=name, clip_on=False)
        axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.02))
        if len(curves) > 1:
            axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    return paint


def points(places: np.ndarray, kinds: np.ndarray, names: Sequence[str], wrong: np.ndarray) -> Paint:
    """Return the paint of points (N, 2) coloured by kind (N,); those that are wrong are crosses."""

    def paint(axes: Any) -> None:
        for kind, name in enumerate(names):
            colour = COLOURS[kind % len(COLOURS)]
            for bad, marker, size in ((False, "o", 9), (True, "x", 20)):
                rows = (kinds == kind) & (wrong == bad)
                label = name if not bad else None
                axes.scatter(*places[rows].T, s=size, color=colour, marker=marker, linewidths=1, alpha=0.8, label=label)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
        if len(names) <= len(COLOURS):
            axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))

    return paint
