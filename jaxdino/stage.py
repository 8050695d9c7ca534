"""A stage of a strategy, as data: how long it lasts, which parameters it trains, and how.

A stage is read strictly from a config (`Stage.of`): a misspelt field is an error that names the nearest field.
Fields that a stage leaves open (None) are inherited from the config's own settings, by the tables of `stage_parts`. The
default values are declared in the classes there and here, and nowhere else; configs/common.py reads them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from jaxdino.core import metric_names, options, size_text
from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.core.rules import did_you_mean
from jaxdino.stage_parts import GROUP_INHERITS, NO_DECAY, RANGES, SIZES, STAGE_INHERITS, Group, Optimizer, Schedule


@dataclass(frozen=True)
class Stage:
    """One stage of a strategy. It ends at `epochs` or `steps`, whichever comes first, or at a plateau.

    Attributes:
      name: name of the stage, in tables and plots.
      rules: ordered (pattern, group): the group of each parameter; the first match wins.
      groups: how each group is trained.
      epochs: limit of the stage, in passes over the training data.
      steps: limit of the stage, in optimiser steps.
      patience: number of epochs without a gain of min_delta after which the stage ends; 0 disables this.
      min_delta: the smallest gain that counts; at 0, any.
      monitor: metric that selects the best weights: higher is better, except of losses and errors of depth; None: the
        task's own (val/accuracy, val/map, val/miou); "": the latest are the best.
      optimizer: the update rule.
      schedule: the learning-rate schedule.
      no_decay: patterns of the parameters without weight decay.
      clip_norm: largest norm of the gradients; 0 disables clipping.
      clip_by: global: the norm of all trainable gradients together; parameter: the norm of each one.
      accumulate: slices of a batch whose gradients are averaged into one step; None: on a CPU, as many as are fastest
        for classification or self-distillation with a vision transformer; otherwise 1.
      label_smoothing: label smoothing of the cross entropy.
      augment: preset of augmentation, and changes to it, "light,degrees=10.0": none, crop, light, standard, strong,
        medical, satellite, industrial, microscopy (docs/augmentation.md).
      drop_path: probability that a block is skipped for an image (stochastic depth); grows with depth to this value.
      batch_size: images per step, over all devices and slices.
      image_size: image size in pixels: 224, 192x256 (height x width), or a size from an epoch on, 0:224,50:512; in a
        config 224, (192, 256), ((0, 224), (50, 512)). None is the model's own.
      multi_scale: sizes of which each training batch draws one, such as 160,192,224; evaluation is at image_size.
      aspect_ratios: batch images of similar shape together, without squeezing them into one: 3:4,1:1,4:3 (width to
        height) or "common"; sizes have about the area of image_size. Evaluation is at image_size.
      sampling: how often images are drawn: "uniform" (each once an epoch), "balanced" (all classes equally often) or
        "square_root" (in proportion to the square root of the class's number of images).
      ema_decay: decay of the moving average of the weights, which is then validated and saved; 0 disables it.
      objective: settings of config.objective that this stage overrides.
      lora: settings of the adapters (`LoRA`), or {part of the model: settings}.
      optional: whether config.skip_optional leaves the stage out.
    """

    name: str
    rules: tuple[tuple[str, str], ...]
    groups: Mapping[str, Group]
    epochs: int | None = None
    steps: int | None = None
    patience: int = 0
    min_delta: float = 0.0
    monitor: str | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    no_decay: tuple[str, ...] = NO_DECAY
    clip_norm: float = 0.0
    clip_by: str = "global"
    accumulate: int | None = None
    label_smoothing: float = 0.0
    augment: str = "none"
    drop_path: float = 0.0
    batch_size: int | None = None
    image_size: Any = None
    multi_scale: Any = ()
    aspect_ratios: Any = ()
    sampling: str = "uniform"
    ema_decay: float = 0.0
    objective: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False

    @classmethod
    def of(cls, given: Mapping, base: Mapping | None = None) -> "Stage":
        """Read a stage from its config; fields left open (None) are inherited from the config `base`.

        Raises:
          UserError: for an unknown field, a rule without its group, a group without a rule, or no length.
        """
        name = given.get("name") or "without a name"
        where = f"stage {name!r}"
        values = _read(cls, given, base, STAGE_INHERITS, where)
        for missing in {"name", "rules", "groups"} - values.keys():
            raise UserError(f"{where} has no {missing!r}: it needs a name, rules and groups")
        values["rules"] = tuple((pattern, group) for pattern, group in values["rules"])
        values["no_decay"] = tuple(values.get("no_decay", NO_DECAY))
        for name in ("objective", "lora"):
            values[name] = _given(values.get(name, {}))
        for part, kind, home in (
            ("optimizer", Optimizer, "optimizer"),
            ("schedule", Schedule, "optimizer.schedule"),
        ):
            inherits = {f.name: f"{home}.{f.name}" for f in fields(kind)}
            values[part] = kind(**_read(kind, values.get(part, {}), base, inherits, f"{where}: {part}"))
        values["groups"] = {
            key: Group(**_read(Group, group, base, _inherited(group), f"{where}: group {key!r}"))
            for key, group in values["groups"].items()
        }
        if "monitor" in values:
            values["monitor"] = metric_names.present(values["monitor"])
        for name, read in SIZES.items():
            values[name] = read(values.get(name), f"{where}: {name}")
        stage = cls(**values)
        stage._check(where)
        return stage

    def _check(self, where: str) -> None:
        if self.epochs is None and self.steps is None:
            raise UserError(f"{where} has no length: give it epochs or steps")
        if len(self.image_size or ()) > 1 and self.multi_scale:
            raise UserError(
                f"{where}: image_size={size_text.text(self.image_size)} and multi_scale both say which size a batch "
                "has: give one image_size, at which multi_scale is evaluated, or leave multi_scale out"
            )
        size_text.check_reached(self.image_size, self.epochs or 0, "image_size", where)
        parts = {"optimizer": self.optimizer, "schedule": self.schedule}
        parts |= {f"group {name!r}": group for name, group in self.groups.items()}
        for at, part in ((where, self), *((f"{where}: {name}", part) for name, part in parts.items())):
            for name, value in vars(part).items():
                if name in RANGES and value is not None:
                    check_range(f"{at}: {name}", value, RANGES[name])
        for pattern, group in self.rules:
            if group not in self.groups:
                hint = did_you_mean(group, self.groups)
                raise UserError(f"{where}: the rule {pattern!r} names the group {group!r}; {hint}")
        used = {group for _, group in self.rules}
        for name, group in self.groups.items():
            if name not in used:
                raise UserError(f"{where}: no rule names the group {name!r}; {did_you_mean(name, used)}")
            if not group.frozen and group.lr is None:
                raise UserError(f"{where}: group {name!r} has no learning rate: give it lr, or frozen=True")

    @property
    def plateaus(self) -> bool:
        """Return whether the stage ends at a plateau of the monitored metric."""
        return self.patience > 0

    def gain(self, value: float, best: float | None) -> float:
        """Return how much better `value` of the monitored metric is than `best`; inf if there is no best yet.

        The best weights are those of the last gain above 0. A gain below `min_delta` counts towards `patience`.
        """
        if best is None or not self.monitor:
            return math.inf
        return best - value if metric_names.falls(self.monitor) else value - best

    def length(self, steps_per_epoch: int) -> int:
        """Return the stage's limit in optimiser steps."""
        limits = [self.steps, self.epochs and self.epochs * steps_per_epoch]
        return min(limit for limit in limits if limit is not None)


def stages(config: Mapping) -> tuple[Stage, ...]:
    """Read the stages of a config in order: without optional ones if `config.skip_optional`; one with `config.stage`.

    Raises:
      UserError: for an invalid stage, two stages with the same name, no stages, or an unknown stage number.
    """
    chosen = [Stage.of(given, config) for given in config["stages"]]
    if config.get("skip_optional"):
        chosen = [stage for stage in chosen if not stage.optional]
    names = [stage.name for stage in chosen]
    if not names or len(set(names)) < len(names):
        raise UserError(f"a strategy needs at least one stage, each with its own name; got {names}")
    number = config.get("stage")
    if number is None:
        return tuple(chosen)
    if not 1 <= number <= len(chosen):
        known = ", ".join(f"{place} ({name})" for place, name in enumerate(names, 1))
        raise UserError(f"there is no stage {number}; the config has {known}")
    return (chosen[number - 1],)


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are set, at any depth, without empty parts."""
    inner = {key: _given(one) if hasattr(one, "items") else one for key, one in settings.items()}
    return {key: one for key, one in inner.items() if one is not None and one != {}}


def _inherited(group: Any) -> Mapping[str, str]:
    """Return the fields that a group inherits; with its own weight decay it does not inherit weight_decay_end."""
    group = vars(group) if isinstance(group, Group) else group
    own = {"weight_decay_end"} if group.get("weight_decay") is not None else set()
    return {name: path for name, path in GROUP_INHERITS.items() if name not in own}


def _read(cls: type, given: Any, base: Any, inherits: Mapping[str, str], where: str) -> dict[str, Any]:
    """Return the fields of `cls` set in `given`, or else in the config `base`."""
    given = vars(given) if isinstance(given, cls) else given
    options.check_names(cls, given, where)
    found = dict(given.items())
    for name, path in inherits.items():
        node = base
        for part in path.split("."):
            node = node[part] if node is not None and part in node else None
        found[name] = node if found.get(name) is None else found[name]
    return options.values(cls, found, where)
