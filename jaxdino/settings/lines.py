"""One-line descriptions of settings, from the "Attributes" of the classes that declare them."""

import re
from functools import cache

from jaxdino.data.config import DataConfig
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.recipe import View
from jaxdino.models.lora_spec import LoRA
from jaxdino.objectives.distill_settings import Projection
from jaxdino.objectives.health import Health
from jaxdino.objectives.settings import OBJECTIVES
from jaxdino.settings import run
from jaxdino.stage import GROUP_INHERITS, STAGE_INHERITS, Group, Optimizer, Schedule, Stage

CLASSES: tuple[tuple[str, tuple[type, ...]], ...] = (
    (r"stages\[\]\.groups\.\w+", (Group,)),
    (r"stages\[\]\.lora(\.\w+)?", (LoRA,)),
    (r"stages\[\]\.objective|objective", (run.Objective, *OBJECTIVES.values())),
    (r"(stages\[\]\.|optimizer\.)schedule", (Schedule,)),
    (r"(stages\[\]\.)?optimizer", (Optimizer,)),
    (r"stages\[\]", (Stage,)),
    (r"data\.views\[\]", (View,)),
    ("data", (DataConfig, run.Views)),
    ("model", (run.Model,)),
    ("projection", (Projection,)),
    ("prompts", (PromptConfig,)),
    ("text|sam", (run.Part,)),
    ("evaluation", (run.Evaluation,)),
    ("alarms", (run.Alarms, Health)),
    ("mesh", (run.Mesh,)),
    ("checkpoint", (run.Checkpoint,)),
    ("tracking", (run.Tracking,)),
    ("debug", (run.Debug,)),
    ("", (run.Run, run.OneStage)),
)
"""(part of a config without indices, the classes that declare its fields)."""

INHERITED = {path: (Stage, name) for name, path in STAGE_INHERITS.items()} | {
    path: (Group, name) for name, path in GROUP_INHERITS.items()
}
"""Settings for all stages -> the field of a stage or group that they set."""


def line_of(path: str) -> str:
    """Return the description of a setting, by its path in the config ("stages[0].epochs"); "" for a user's own one."""
    path = re.sub(r"\[\d+\]", "[]", path)
    if path in INHERITED:
        cls, name = INHERITED[path]
        return attributes(cls)[name]
    parent, _, name = path.rpartition(".")
    if parent == "own_rates":
        return f"learning rate of the group {name!r} for rates=own, in every stage that trains it"
    if name.endswith("[]"):
        return ""
    for pattern, classes in CLASSES:
        if re.fullmatch(pattern, parent):
            found = (attributes(cls).get(name) for cls in classes)
            return next((line for line in found if line), "")
    return ""


@cache
def attributes(cls: type) -> dict[str, str]:
    """Return {field: text} from the "Attributes" of a class's docstring; fields of a shared entry share its text."""
    _, _, text = (cls.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.splitlines():
        if not line.strip():
            break
        entry = re.fullmatch(r" {6}(\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            found |= dict.fromkeys(names, entry[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return {name: line.removesuffix(".") for name, line in found.items()}
