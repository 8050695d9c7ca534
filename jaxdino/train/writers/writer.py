"""What a writer of metrics is, and what it is told about the run."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class Target:
    """The run that a writer writes for.

    Attributes:
      folder: the run's folder. config: its settings, as nested dicts and lists.
      tracking: the settings of `config.tracking`.
      kept: what the writer kept in the run's folder at an earlier start (`Writer.kept`); {} at the first one.
      say: prints a line for the user.
    """

    folder: Path
    config: Mapping[str, Any]
    tracking: Mapping[str, Any]
    kept: Mapping[str, Any]
    say: Callable[[str], None]

    @property
    def name(self) -> str:
        """Name of the run: as set, or that of its folder."""
        return self.tracking.get("name") or self.folder.resolve().name


class Writer(Protocol):
    """One place where the metrics of a run are written, beside metrics.jsonl. Only the first process of a run has one.

    Created from a `Target`; any exception is allowed, there and in the methods.

    Attributes:
      reached: the last step that is already there, from earlier starts of the run; up to it nothing is written again.
      kept: what must be known to go on with the same record when the run is resumed, such as its id; as in JSON.
    """

    reached: int
    kept: Mapping[str, Any]

    def write(self, values: Mapping[str, float], step: int, time: float) -> None:
        """Write the metrics of a step; `time` is in seconds since 1970."""

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Write the results of a run that has ended, and copies of files."""

    def close(self, finished: bool) -> None:
        """Write what is left and close; `finished` is False for a run that was stopped or has failed."""


def flattened(tree: Any, separator: str = "/", path: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts and lists by their paths: {"stages[0].epochs": 3} with "." as separator."""
    if isinstance(tree, Mapping) and tree:
        parts = ((f"{path}{separator}{key}" if path else str(key), one) for key, one in tree.items())
    elif isinstance(tree, list | tuple) and any(isinstance(one, Mapping) for one in tree):
        parts = ((f"{path}[{number}]", one) for number, one in enumerate(tree))
    else:
        return {path: tree} if path else {}
    return {name: leaf for place, one in parts for name, leaf in flattened(one, separator, place).items()}


def numbers(tree: Any) -> dict[str, float]:
    """Return the numbers among the leaves of nested dicts: {"learning_rates/head": 0.1}."""
    leaves = flattened(tree)
    return {name: one for name, one in leaves.items() if isinstance(one, int | float) and not isinstance(one, bool)}
