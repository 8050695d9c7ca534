"""The metrics of a run: read, record, convert to a table, and plot, also for several runs together."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import finite
from jaxdino.core.rules import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

LEVELS = ("step", "epoch")
PLACE = ("step", "epoch", "stage", "time")
"""Entries of a record that say where it belongs; the others are metrics."""


class History:
    """The records of a run, one for each logged step.

        history = jaxdino.History.load("runs/mine")
        history.to_dataframe("epoch")
        history.plot(["loss", "val/loss"], file="loss.png")
        jaxdino.History.compare({"linear": history, "gradual": other}, "val/accuracy", file="both.png")

    Attributes:
      records: dicts with "step", often "epoch", "stage" and "time", and metrics by name: "loss", "val/accuracy",
        "learning_rates/head", "momentum" (of a teacher), "images_per_second".
      name: of the run, in plots.
    """

    def __init__(self, records: Sequence[Mapping[str, Any]] = (), name: str = "run"):
        self.name = name
        self.records: list[dict[str, Any]] = []
        for record in records:
            self.record(**record)

    @classmethod
    def load(cls, path: str | Path) -> "History":
        """Read the metrics of a run.

        Args:
          path: the run's folder, or a metrics.jsonl. Lines that cannot be read are left out.

        Raises:
          UserError: if there are no metrics.
        """
        from jaxdino.train import metric_log  # imports JAX

        given = Path(path)
        file = given / metric_log.FILE if given.is_dir() else given
        found = metric_log.records(file)
        if not found:
            why = "has no metrics yet" if file.exists() else "does not exist: give the --workdir of a run"
            raise UserError(f"{file} {why}")
        return cls(found, file.resolve().parent.name)

    def record(self, **values: Any) -> None:
        """Add a record; dicts in it are flattened. Without `step`, the step after the last one.

        Raises:
          UserError: for a step before the last one.
        """
        last = self.records[-1]["step"] if self.records else 0
        flat: dict[str, Any] = {"step": last + 1}
        for name, value in values.items():
            inside = value.items() if isinstance(value, Mapping) else ()
            flat |= {f"{name}/{key}": one for key, one in inside} if inside else {name: value}
        if flat["step"] < last:
            raise UserError(f"step {flat['step']} comes after step {last}: record steps in order")
        self.records.append(flat)

    def save(self, file: str | Path) -> None:
        """Write the records as JSON lines, which `load` and other programs read."""
        lines = (json.dumps(finite(record | {"time": record.get("time", 0.0)})) for record in self.records)
        Path(file).write_text("".join(f"{line}\n" for line in lines))

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics, in the order in which they appear."""
        return [name for name in dict.fromkeys(name for one in self.records for name in one) if name not in PLACE]

    def series(self, metric: str, level: str = "step") -> tuple[np.ndarray, np.ndarray]:
        """Return (places (n,), values (n,)) of a metric where it is known.

        Args:
          level: "step": steps over the whole run; "epoch": epochs counted over all stages, each with the mean of its
            records, or for metrics of validation its own value.

        Raises:
          UserError: for an unknown metric or level.
        """
        if level not in LEVELS:
            raise UserError(f"level={level!r} is not known; {did_you_mean(level, LEVELS)}")
        rows = self.records if level == "step" else self.epochs()
        pairs = [(row[level], row[metric]) for row in rows if isinstance(row.get(metric), int | float)]
        if not pairs:
            raise UserError(f"{self.name} has no metric {metric!r}; {did_you_mean(metric, self.metrics)}")
        places, values = zip(*pairs, strict=True)
        return np.array(places), np.array(values, float)

    def epochs(self) -> list[dict[str, Any]]:
        """Return a record for each epoch, counted over all stages: means of its steps, and its validation."""
        groups: dict[tuple, list[dict[str, Any]]] = {}
        for record in self.records:
            groups.setdefault((record.get("stage"), record.get("epoch")), []).append(record)
        return [self._epoch(number, rows) for number, rows in enumerate(groups.values(), 1)]

    def _epoch(self, number: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
        found = {**rows[-1], "epoch": number}
        for name in self.metrics:
            values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
            if values:
                found[name] = float(np.mean(values))
        return found

    def to_dataframe(self, level: str = "step") -> "pd.DataFrame":
        """Return a pandas DataFrame with a row for each logged step, or for each epoch.

        Raises:
          UserError: for an unknown level, or without pandas.
        """
        if level not in LEVELS:
            raise UserError(f"level={level!r} is not known; {did_you_mean(level, LEVELS)}")
        try:
            import pandas as pd
        except ImportError:
            raise UserError("to_dataframe needs pandas: pip install 'jaxdino[pandas]'") from None
        return pd.DataFrame(self.records if level == "step" else self.epochs())

    def plot(self, metrics: str | Sequence[str] = "loss", level: str = "step", file: str | Path | None = None) -> Any:
        """Plot metrics over the run, in one picture.

        Args:
          metrics: names; "learning_rates" is that of every group. level: as in `series`.
          file: write the picture there, as PNG, PDF or SVG.

        Returns:
          The matplotlib Figure.
        """
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        names = [one for name in names for one in self._inside(name)]
        return _figure([(name, self.series(name, level)) for name in names], level, self.name, file)

    def _inside(self, name: str) -> list[str]:
        return [one for one in self.metrics if one.startswith(f"{name}/")] or [name]

    @staticmethod
    def compare(
        runs: Mapping[str, "History"], metric: str = "loss", level: str = "epoch", file: str | Path | None = None
    ) -> Any:
        """Plot a metric of several runs in one picture.

        Args:
          runs: {label: history}. metric, level, file: as in `plot`.

        Returns:
          The matplotlib Figure.
        """
        return _figure([(label, run.series(metric, level)) for label, run in runs.items()], level, metric, file)


def _figure(curves: Sequence[tuple[str, tuple[np.ndarray, np.ndarray]]], level: str, title: str, file: Any) -> Any:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from jaxdino.train.plots import COLOURS, MARGINS, STYLE

    with rc_context(cast("Any", STYLE)):
        figure = Figure(figsize=(8, 4.2))
        figure.subplots_adjust(**MARGINS)
        axes = figure.add_subplot()
        for number, (label, (places, values)) in enumerate(curves):
            mark = "o" if len(values) < 60 else None
            axes.plot(places, values, color=COLOURS[number % len(COLOURS)], marker=mark, markersize=3.5, label=label)
        axes.set_title(title)
        axes.set_xlabel(level)
        if all(values.min() > 0 and label.startswith("learning_rates/") for label, (_, values) in curves):
            axes.set_yscale("log")
        axes.legend()
        if file is not None:
            figure.savefig(file, dpi=130)
    return figure
