"""What tasks share at the end of a run: the lines and metrics of the tested split, and images that are drawn."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdino.data import pipeline
from jaxdino.data.record import Split
from jaxdino.train import data, results
from jaxdino.train.tasks.supervised import OPTIMISTIC, Supervised, in_split

if TYPE_CHECKING:
    from jaxdino.train.session import Session

DRAWN = 6  # images of the picture at the end


def ended(
    session: "Session",
    split: str,
    found: Mapping[str, float],
    shown: Iterable[str],
    lines: Sequence[str] = (),
    more: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """Return the entries of the summary and the lines to print, as `Supervised.finish`.

    Args:
      found: metrics by name. shown: those of the first line. lines: what is printed after it.
      more: other entries of the summary.
    """
    values = ", ".join(f"{name.replace('_', ' ')} {found[name]:.4f}" for name in shown)
    first = f"{split} ({results.model_words(session.delivered)}): {values}"
    return in_split(split, {**found, **(more or {})}), [first, *lines, *([OPTIMISTIC] if split == "val" else [])]


def each_class(split: str, name: str, found: Mapping[str, float], prefix: str) -> list[str]:
    """Return lines with the metrics "<prefix>/<class>", the lowest first, as `results.listed`.

    Args:
      name: of the metric, in the lines.
    """
    own = {key.removeprefix(f"{prefix}/"): value for key, value in found.items() if key.startswith(f"{prefix}/")}
    return results.listed(f"{split} {name}", [f"{one} {own[one]:.3f}" for one in sorted(own, key=own.__getitem__)])


def spread(session: "Session", whole: Split) -> Split:
    """Return up to `DRAWN` images of a split, evenly spaced among those that can be read."""
    bad = session.progress.bad.get(whole.name, {})
    good = [row for row in range(len(whole)) if whole.record_name(row) not in bad]
    return whole.chosen([good[place] for place in np.unique(np.linspace(0, len(good) - 1, DRAWN).astype(int))])


def read_whole(task: Supervised, split: Split) -> dict[int, np.ndarray]:
    """Return {row: image uint8 (H, W, C)} of the images of a split that can be read, at their own sizes."""
    cfg = dataclasses.replace(data.config_of(task.config), sixteen_bit=task.spec.preprocess.sixteen_bit)
    images = pipeline.make_whole_iter(split, cfg, fields=(), channels=task.spec.config.in_channels)
    return {int(batch["index"][0]): batch["image"][0] for batch in images if batch["weight"][0]}
