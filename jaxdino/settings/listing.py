"""The list of all settings of a config: flag, type, default and a line each, in groups."""

import re
import textwrap
from collections.abc import Iterable

from ml_collections import ConfigDict

from jaxdino.settings.lines import line_of
from jaxdino.settings.tree import Setting, settings

HEADINGS = {
    "": "the run",
    "model": "model: the backbone and its weights",
    "data": "data: what is read",
    "data.views[]": "data.views[i]: the crops of an image",
    "objective": "objective: what is minimised",
    "projection": "projection: the heads of self-distillation",
    "prompts": "prompts: what a mask is asked by",
    "text": "text: the text encoder",
    "sam": "sam: the mask decoder",
    "own_rates": "own_rates: learning rates for own weights (rates=own)",
    "optimizer": "optimizer: of every stage that sets nothing else",
    "optimizer.schedule": "optimizer.schedule: of every stage that sets nothing else",
    "early_stopping": "early_stopping: of every stage that sets nothing else",
    "evaluation": "evaluation: how features are measured",
    "alarms": "alarms: when a run has collapsed",
    "mesh": "mesh: the devices",
    "checkpoint": "checkpoint: what a run is resumed from",
    "stages[]": "stages[i]: a stage; what it leaves open is as for the whole run",
    "stages[].groups": "stages[i].groups: how the parameters of a group are trained",
}
"""Part of the config -> its heading; another part stands below its own name."""
FOLDED = {r"stages\[\]\.groups\.\w+": "stages[].groups"}
"""Parts that share a heading."""


def listing(config: ConfigDict, word: str | None = None, width: int = 120) -> str:
    """All settings, or those whose part is called `word`, or whose flag or line contains it.

    A setting that several stages (or views) have stands once, with i for their number and all their defaults.
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
        return f"no setting has {word!r} in its name or its line; --help-config alone lists all"
    names = [one.value for path, one in known.items() if re.fullmatch(r"stages\[\d+\]\.name", path)]
    stages = ", ".join(f"{number} {name}" for number, name in enumerate(names))
    head = [f"stages: {stages}; a value for each, '-' where it is left open", ""] if stages else []
    return "\n".join(head + [line for part, lines in rows.items() for line in _table(part, lines, width)])


def _part(general: str) -> str:
    parent = general.rpartition(".")[0]
    return next((part for pattern, part in FOLDED.items() if re.fullmatch(pattern, parent)), parent)


def _matches(word: str, part: str, general: str) -> bool:
    if word in (part, part.replace("[]", "")):
        return True
    return word.lower() in f"{general} {line_of(general)}".lower()


def _row(general: str, several: list[Setting]) -> tuple[str, str, str, str]:
    """(flag, type, default, line)."""
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
    """A heading, two lines or more for each setting, and an empty one."""
    lines = [HEADINGS.get(part, part.replace("[]", "[i]"))]
    for flag, kind, default, line in rows:
        lines.append(f"  {flag}={default}  ({kind})")
        lines += textwrap.wrap(line, width, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return [*lines, ""]
