"""Find settings that were given but have no effect: each stage overrides them, or the feature is not in use."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from ml_collections import ConfigDict

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.objectives.settings import OBJECTIVES, class_of
from jaxdino.objectives.stage_settings import given_in
from jaxdino.settings.tree import Setting, parent_of
from jaxdino.settings.writers import chosen
from jaxdino.stage import GROUP_INHERITS, STAGE_INHERITS, Stage, stages

Values = dict[str, Any]
Rule = tuple[str, Callable[[Values], bool], str]
"""(pattern of values of a stage, whether it reads them given all its values, the reason if not)."""

OF_RUN: tuple[tuple[str, Callable[[ConfigDict], bool], str], ...] = (
    (r"model\.drop_head", lambda c: c.model.weights != "random", "random weights have no head"),
    ("rates", lambda c: bool(c.own_rates), "this config has one set of rates"),
    (r"own_rates\..*", lambda c: c.rates == "own", "rates=public"),
    (r"alarms\.(?!stop).*", lambda c: c.alarms.stop, "alarms.stop=False disables the alarms"),
    (
        r"data\.classes",
        lambda c: c.data.name not in ("digits", "images") or bool(c.get("evaluation") and c.evaluation.root),
        "only folders of classes have it (data.name=folder, evaluation.root)",
    ),
    (
        r"data\.(min_visibility|max_boxes)",
        lambda c: c.objective.name in ("detect", "instances"),
        "only objective.name=detect and instances read it",
    ),
    (r"tracking\.uri", lambda c: "mlflow" in chosen(c.writers), "only writers=mlflow reads it"),
    (r"tracking\..*", lambda c: bool({"wandb", "mlflow"} & {*chosen(c.writers)}), "only writers=wandb,mlflow read it"),
    (r"prompts\.prompt", lambda c: c.data.name == "masks", "only data.name=masks reads it"),
    (r"prompts\.annotations", lambda c: c.data.name == "coco", "only data.name=coco reads it"),
    (
        r"prompts\.spatial_prob",
        lambda c: c.prompts.points > 0 or c.prompts.boxes,
        "neither prompts.points nor prompts.boxes is set",
    ),
)
"""(settings of the run, whether a config reads them, the reason if not)."""

OF_STAGE: tuple[Rule, ...] = (
    (r"optimizer\.(betas|eps|moments)", lambda s: s["optimizer.name"] == "adamw", "only optimizer.name=adamw reads it"),
    (r"optimizer\.(momentum|nesterov)", lambda s: s["optimizer.name"] == "sgd", "only optimizer.name=sgd reads it"),
    (
        r"schedule\.final",
        lambda s: s["schedule.name"] in ("cosine", "cosine_restarts"),
        "only the schedules cosine and cosine_restarts read it",
    ),
    (
        r"schedule\.period_epochs",
        lambda s: s["schedule.name"] in ("step", "cosine_restarts"),
        "only the schedules step and cosine_restarts read it",
    ),
    (
        r"schedule\.period_mult",
        lambda s: s["schedule.name"] == "cosine_restarts",
        "only the schedule cosine_restarts reads it",
    ),
    (r"schedule\.factor", lambda s: s["schedule.name"] == "step", "only the schedule step reads it"),
    (r"schedule\.warmup_epochs", lambda s: s["schedule.warmup_steps"] == 0, "warmup_steps is used instead"),
    ("min_delta", lambda s: s["patience"] > 0, "patience=0 ends no stage early"),
    ("clip_by", lambda s: s["clip_norm"] > 0, "clip_norm=0 clips nothing"),
)
"""The values of stages that depend on others. Those of an objective are in its settings (`ObjectiveSettings.idle`)."""


def unused(config: ConfigDict, changed: Mapping[str, Setting]) -> list[str]:
    """Return a line for each given setting that no stage reads, or that not all stages read.

    Args:
      changed: {path: setting in the config file} of the given settings.
    """
    try:
        now = _in_use(config)
    except UserError:  # the run reports it
        return []
    lines = []
    for path, before in changed.items():
        node, key = parent_of(config, path)
        flag = f"--config.{path}={node[key]}"
        if why := _not_read(path, config):
            lines.append(f"{flag} has no effect: {why}")
        elif field := _field(path):
            winners = list(_winners(config, path, field))
            if now == _without(config, path, before.value):
                lines.append(f"{flag} has no effect: {_why(config, path, field, winners)}")
            elif winners := [one for one in winners if one.removeprefix("--config.").split("=")[0] not in changed]:
                lines.append(f"{flag} is not for all stages: {_listed(winners)} used instead")
    return lines


def _not_read(path: str, config: ConfigDict) -> str | None:
    """Return why the run does not read a setting: another task does, or see `OF_RUN`."""
    readers = [name for name, cls in OBJECTIVES.items() if any(re.fullmatch(one, path) for one in cls.reads)]
    if readers and not any(re.fullmatch(one, path) for one in class_of(config.objective).reads):
        return f"only objective.name={', '.join(readers)} {'reads' if len(readers) == 1 else 'read'} it"
    return next((why for pattern, reads, why in OF_RUN if re.fullmatch(pattern, path) and not reads(config)), None)


def _field(path: str) -> str | None:
    """Return the value of a stage that a setting sets: "schedule.final", "groups.*.lr"; None for another setting."""
    for name, place in STAGE_INHERITS.items():
        if path == place:
            return name
    for name, place in GROUP_INHERITS.items():
        if path == place:
            return f"groups.*.{name}"
    if path in ("skip_optional", "stage"):
        return path
    inside = re.fullmatch(r"(?:optimizer\.(?=schedule\.)|stages\[\d+\]\.|(?=optimizer\.|objective\.))(.+)", path)
    return inside[1] if inside and inside[1] not in ("objective.name", "objective.method") else None


def _in_use(config: ConfigDict) -> dict[str, Values]:
    """Return {stage: the values that it reads} of the stages that run."""
    return {stage.name: _values(stage, config) for stage in stages(config)}


def _values(stage: Stage, config: ConfigDict) -> Values:
    flat: Values = {}
    for name, value in vars(stage).items():
        if name in ("optimizer", "schedule"):
            flat |= {f"{name}.{key}": one for key, one in vars(value).items()}
        elif name not in ("groups", "objective"):
            flat[name] = value
    for name, group in stage.groups.items():
        own = vars(group) if not group.frozen else {"frozen": True}
        flat |= {f"groups.{name}.{key}": one for key, one in own.items()}
    flat |= {f"objective.{key}": one for key, one in _objective(stage, config).items()}
    rules = _rules(config)
    return {
        name: value
        for name, value in flat.items()
        if all(reads(flat) for pattern, reads, _ in rules if re.fullmatch(pattern, name))
    }


def _rules(config: ConfigDict) -> tuple[Rule, ...]:
    """Return the rules of stages, and those of the objective."""

    def of_objective(reads: Callable[[Mapping[str, Any]], bool]) -> Callable[[Values], bool]:
        start = "objective."
        return lambda flat: reads({key[len(start) :]: one for key, one in flat.items() if key.startswith(start)})

    own = class_of(config.objective).idle
    return (*OF_STAGE, *((rf"objective\.{pattern}", of_objective(reads), why) for pattern, reads, why in own))


def _objective(stage: Stage, config: ConfigDict) -> Values:
    settings = class_of(config.objective)
    given = given_in(config.objective) if fields(settings) else {}
    return {**asdict(settings.start(config.objective)), **given, **stage.objective}


def _without(config: ConfigDict, path: str, value: Any) -> dict[str, Values] | None:
    """Return the values in use with one setting unchanged; None if that run is impossible (a stage without length)."""
    other = copy.deepcopy(config)
    node, key = parent_of(other, path)
    node[key] = value
    try:
        return _in_use(other)
    except UserError:
        return None


def _winners(config: ConfigDict, path: str, field: str) -> Iterator[str]:
    """Yield the settings of single stages that override one for all stages, as flags."""
    if path.startswith("stages["):
        return
    running = [stage.name for stage in stages(config)]
    for index, stage in enumerate(config.stages):
        if stage.name not in running:
            continue
        *parts, key = field.split(".")
        group = parts[0] if parts else None
        if group == "groups":
            named = {f"groups.{name}": one for name, one in stage.groups.items() if not one.frozen}
        else:
            named = {group: stage.get(group, {})} if group else {"": stage}
        for place, node in named.items():
            if node.get(key) is not None:
                yield f"--config.stages[{index}].{place}{'.' if place else ''}{key}={node[key]}"


def _why(config: ConfigDict, path: str, field: str, winners: list[str]) -> str:
    if field in ("skip_optional", "stage"):
        return "no stage is optional" if field == "skip_optional" else "there is no other stage"
    if found := re.match(r"stages\[(\d+)\]", path):
        stage = config.stages[int(found[1])]
        if stage.name not in [one.name for one in stages(config)]:
            return f"the stage {stage.name} is left out"
        group = re.fullmatch(r"groups\.(\w+)\.\w+", field)
        if group and stage.groups[group[1]].frozen:
            return f"the group {group[1]} of that stage is frozen"
    for pattern, _, why in _rules(config):
        if re.fullmatch(pattern, field) and not winners:
            return why
    return f"{_listed(winners)} used instead" if winners else "no stage reads it"


def _listed(winners: list[str]) -> str:
    return f"{few(winners, 3)} {'is' if len(winners) == 1 else 'are'}"
