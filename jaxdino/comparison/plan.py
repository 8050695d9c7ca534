"""The runs of a comparison: each strategy with each seed, an ordinary run folder each; checked before any work."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.settings.check import check
from jaxdino.settings.command_line import Command, command
from jaxdino.train.decoding import choose_decoder
from jaxdino.train.origin import settle
from jaxdino.train.workdir import Workdir

METRICS = {
    "classify": "val/accuracy",
    "knowledge_distillation": "val/accuracy",
    "multilabel": "val/map",
    "semantic": "val/miou",
    "depth": "val/abs_rel",
    "detect": "val/map",
    "instances": "val/mask_map",
}
"""Tasks -> their first metric."""
RUNS = "runs"
MOST_SEEDS = 100


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run of the comparison.

    Attributes:
      strategy: its short name, "gradual" or "gradual-dinov3_vits16".
      config, flags: the config and the settings of the run, as `jaxdino train` takes them. folder: its run folder.
    """

    strategy: str
    seed: int
    config: str
    flags: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def command(self) -> Command:
        """The config and the settings, read."""
        return command(self.config, self.flags)

    def settled(self) -> Any:
        """Return the config of the run, as `jaxdino train` makes it."""
        config = settle(self.command, self.folder, _quiet)
        choose_decoder(config, self.folder, _quiet)
        return config


def planned(
    strategies: Sequence[str], seeds: Sequence[int], model: str | None, flags: Sequence[str], out: Path
) -> list[PlannedRun]:
    """Return the runs, seed by seed, so that a comparison that is stopped early has all strategies.

    Args:
      strategies: names or files of configs; ":MODEL" may follow. model: the model of those without one.
      flags: settings of all runs, "--config.NAME=VALUE".

    Raises:
      UserError: for strategies with one name.
    """
    labels = {text: _label(text) for text in strategies}
    for text, label in labels.items():
        same = [other for other, theirs in labels.items() if theirs == label]
        if len(same) > 1 or list(strategies).count(text) > 1:
            raise UserError(f"--configs: {', '.join(same)} would have one folder, {label}: name each strategy once")
    runs = []
    for seed in seeds:
        for text, label in labels.items():
            config = text if model is None or ":" in text else f"{text}:{model}"
            given = (*flags, f"--config.seed={seed}", "--config.checkpoint.stage_models=True")
            runs.append(PlannedRun(label, seed, config, given, out / RUNS / f"{label}-seed{seed}"))
    return runs


def seeds_of(text: str) -> list[int]:
    """Return the seeds of a flag: "3" is 0, 1, 2; "4,7" is these two, and "4," only 4.

    Raises:
      UserError: for another text, and for no or too many seeds.
    """
    parts = [one.strip() for one in text.split(",") if one.strip()]
    if not parts or not all(re.fullmatch(r"\d{1,18}", one) for one in parts):
        raise UserError(f"--seeds {text}: give their number, such as 3 (seeds 0, 1, 2), or a list such as 4,7")
    seeds = list(map(int, parts)) if "," in text else list(range(min(int(parts[0]), MOST_SEEDS + 1)))
    if not 1 <= len(seeds) <= MOST_SEEDS or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: give 1 to {MOST_SEEDS} different seeds")
    return seeds


def checked(runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """Return {run: its config}, after all that can be checked before the first run, and without writing anything.

    Raises:
      UserError: for wrong settings, tasks that cannot be compared, and folders that hold other runs.
    """
    found = {}
    for run in runs:
        if not run.command.weights_name_it:
            check(run.command.config())
        found[run.name] = config = run.settled()
        task = config.objective.name
        if task not in METRICS:
            raise UserError(
                f"--configs: {run.strategy} trains the task {task!r}; compare takes {', '.join(METRICS)}: the others "
                "have no validation labels"
            )
        Workdir(run.folder, config)  # refuses a folder that holds another run
    tasks = {config.objective.name for config in found.values()}
    if len(tasks) > 1:
        raise UserError(f"--configs: they train different tasks ({few(sorted(tasks), 3)}): compare one task at a time")
    monitors = {metric_of(config) for config in found.values()}
    if len(monitors) > 1:
        raise UserError(
            f"--configs: they choose their models by different metrics ({few(sorted(monitors), 3)}): give one for all, "
            "--config.early_stopping.monitor=val/accuracy"
        )
    return found


def metric_of(config: Any) -> str:
    """Return the metric that a run is compared by, without its split: "accuracy".

    It is the one that chooses the model, unless that is a loss: then the task's own.
    """
    last = config.stages[-1].get("monitor") if config.get("stages") else None
    monitor = last or (config.get("early_stopping") or {}).get("monitor") or METRICS[config.objective.name]
    return (METRICS[config.objective.name] if monitor.endswith("loss") else monitor).removeprefix("val/")


def finished(run: PlannedRun, config: Any) -> bool:
    """Return whether the run has nothing left to train."""
    folder = Workdir(run.folder, config)
    return folder.finished and not folder.lengthened


def _label(text: str) -> str:
    name, _, model = text.partition(":")
    stem = Path(name).stem if name.endswith(".py") else name
    return re.sub(r"[^\w.-]+", "-", f"{stem}-{model}" if model else stem).strip("-.") or "config"


def _quiet(line: str) -> None:
    """Drop a line that the run itself will print."""
