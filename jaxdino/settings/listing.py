"""List all settings of a config: flag, type, default and description, in groups."""

import re
import textwrap
from collections.abc import Iterable

from ml_collections import ConfigDict

from jaxdino.settings.lines import line_of
from jaxdino.settings.tree import Setting, settings

HEADINGS = {
    "": "the run",
    "model": "model: the backbone and its weights",
    "data": "data: the input data",
    "data.views[]": "data.views[i]: the crops of an image",
    "objective": "objective: the losses",
    "projection": "projection: the projection heads of self-distillation",
    "prompts": "prompts: text, points and boxes that prompt a mask",
    "text": "text: the text encoder",
    "sam": "sam: the mask decoder",
    "own_rates": "own_rates: learning rates for own weights (rates=own)",
    "optimizer": "optimizer: the default for every stage",
    "optimizer.schedule": "optimizer.schedule: the default for every stage",
    "early_stopping": "early_stopping: the default for every stage",
    "evaluation": "evaluation: how features are evaluated",
    "alarms": "alarms: how a collapse is detected",
    "mesh": "mesh: the devices",
    "checkpoint": "checkpoint: when checkpoints are saved",
    "tracking": "tracking: how metrics are written to Weights & Biases and MLflow",
    "debug": "debug: looking for faults",
    "stages[]": "stages[i]: a stage; open fields take the value for the whole run",
    "stages[].groups": "stages[i].groups: how the parameters of a group are trained",
}
"""Part of the config -> its heading; other parts are shown under their own name."""
FOLDED = {r"stages\[\]\.groups\.\w+": "stages[].groups"}
"""Parts that share a heading."""


def listing(config: ConfigDict, word: str | None = None, width: int = 120) -> str:
    """List all settings, or those whose part is called `word`, or whose flag or description contains it.

    A setting of several stages (or views) is listed once, with i for their number and all their defaults.
    """
    known = settings(config)
    alike: dict[str, list[Setting]] = {}
    for one in known.values():
        alike.setdefault(one.general, []).append(one)
    rows: dict[str, list[tuple[str, str, str, str]]] = {}
    for general, several in alike.items():
        part = _part(general)
        if word is None or _matches(word, part, general):
            rows.setdefault(part, []).append(_row(general, several))
    if not rows:
        return f"no setting has {word!r} in its name or its description; --help-config alone lists all"
    names = [one.value for path, one in known.items() if re.fullmatch(r"stages\[\d+\]\.name", path)]
    stages = ", ".join(f"{number} {name}" for number, name in enumerate(names))
    head = [f"stages: {stages}; a value for each, '-' if it is open", ""] if stages else []
    return "\n".join(head + [line for part, lines in rows.items() for line in _table(part, lines, width)])


def _part(general: str) -> str:
    parent = general.rpartition(".")[0]
    return next((part for pattern, part in FOLDED.items() if re.fullmatch(pattern, parent)), parent)


def _matches(word: str, part: str, general: str) -> bool:
    if word in (part, part.replace("[]", "")):
        return True
    return word.lower() in f"{general} {line_of(general)}".lower()


def _row(general: str, several: list[Setting]) -> tuple[str, str, str, str]:
    """Return (flag, type, default, description)."""
    values = [_shown(one.value, 40 if len(several) == 1 else 16) for one in several]
    default = values[0] if len(set(values)) == 1 else " / ".join(values)
    kind = several[0].kind.__name__ if several[0].kind is not object else "any"
    return f"--config.{general.replace('[]', '[i]')}", kind, default, line_of(general)


def _shown(value: object, most: int) -> str:
    if value is None:
        return "-"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _table(part: str, rows: Iterable[tuple[str, str, str, str]], width: int) -> list[str]:
    """Format a heading, two lines or more for each setting, and an empty line."""
    lines = [HEADINGS.get(part, part.replace("[]", "[i]"))]
    for flag, kind, default, line in rows:
        lines.append(f"  {flag}={default}  ({kind})")
        lines += textwrap.wrap(line, width, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return [*lines, ""]
