"""Resolve strategies: a strategy is an ordered list of stages, and `resolve` turns a stage into a plan for one model.

A stage's rules are ordered (pattern, group) pairs; the first match wins. A pattern is a regular expression on the whole
parameter path, or a selector for the model's list of layers:

    @all @head @norm @stem @blocks   every layer, or every layer of that kind
    @last @last:4                    the model's last blocks (2 for a ViT, layer4 for a ResNet), the last 4
    @blocks[2:5]                     a slice of the blocks

A selector never names an architecture, so that one strategy works for all of them.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, cast

from jaxdino.core.errors import UserError
from jaxdino.core.pattern import Pattern
from jaxdino.core.rules import did_you_mean, first_match
from jaxdino.core.table import format_table
from jaxdino.stage import NO_DECAY, Group, Optimizer, Schedule, Stage, stages

__all__ = ["NO_DECAY", "Group", "LeafPlan", "Optimizer", "Plan", "Schedule", "Stage"]
__all__ += ["format_plan", "resolve", "select", "stages"]

SELECTORS = ("@all", "@head", "@norm", "@stem", "@blocks", "@blocks[2:5]", "@last", "@last:4")
KINDS = {"@head": "head", "@norm": "norm", "@stem": "stem", "@blocks": "block"}
# A ResNet has no final norm: "@norm" then selects nothing, which is not an error.
DISPENSABLE_KINDS = ("norm",)


@dataclass(frozen=True)
class LeafPlan:
    """How a stage trains one parameter. `lr` is its own peak rate, which includes the layer decay `scale`.

    The weight decay goes from `weight_decay` to `weight_decay_end` over the stage; the rate is 0 for `freeze_epochs`.
    """

    group: str
    layer: str
    frozen: bool
    lr: float
    scale: float
    weight_decay: float
    size: int
    weight_decay_end: float | None = None
    freeze_epochs: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A stage resolved for a model: {path: LeafPlan} for every parameter (not for buffers)."""

    stage: str
    leaves: Mapping[str, LeafPlan]

    @cached_property
    def trainable(self) -> tuple[str, ...]:
        """The paths that the stage trains, in the model's order."""
        return tuple(path for path, leaf in self.leaves.items() if not leaf.frozen)

    @property
    def trainable_params(self) -> int:
        """Number of trainable elements."""
        return sum(self.leaves[path].size for path in self.trainable)

    @property
    def trainable_fraction(self) -> float:
        """Share of the model's parameters that the stage trains, in 0..1."""
        return self.trainable_params / sum(leaf.size for leaf in self.leaves.values())


def resolve(spec: Any, skeleton: Any, stage: Stage | Mapping, base: Mapping | None = None) -> Plan:
    """Resolve a stage for a model.

    Layer decay is BEiT's: the stem is layer 0, block i layer i + 1, the final norm and the head are both the
    top layer, depth + 1; a leaf's rate is lr * layer_decay ** (depth + 1 - layer). Source: microsoft/unilm
    beit/optim_factory.py.

    Args:
      spec: the model's `.name`, ordered `.layers` (name, kind, prefixes) and `.last_layers`.
      skeleton: `.entries` {path: shape, dtype, kind}; only entries of kind "param" are planned.
      stage: a Stage, or its config, which inherits from the config `base`.

    Raises:
      UserError: for a parameter without a rule, a rule or selector that matches nothing, or nothing to train.
    """
    stage = stage if isinstance(stage, Stage) else Stage.of(stage, base)
    params = {path: entry for path, entry in skeleton.entries.items() if entry.kind == "param"}
    layers = _layer_of(params, spec)
    rules = [(regex, group) for p, group in stage.rules if (regex := _regex(p, spec, layers))]
    group_of = first_match(list(params), rules)
    heights, order = _heights(spec.layers), [layer.name for layer in spec.layers]
    aside = {layer.name for layer in spec.layers if layer.kind == "aside"}
    no_decay = [Pattern(text, "optimizer.no_decay") for text in stage.no_decay]
    leaves = {}
    for path in sorted(params, key=lambda path: order.index(layers[path])):
        group = stage.groups[group_of[path]]
        scale = group.layer_decay ** (max(heights.values()) - heights[layers[path]])
        frozen = group.frozen or layers[path] in aside
        bare = frozen or any(pattern.matches(path) for pattern in no_decay)
        leaves[path] = LeafPlan(
            group=group_of[path],
            layer=layers[path],
            frozen=frozen,
            lr=0.0 if frozen else cast(float, group.lr) * scale,  # `Stage` does not allow None
            scale=scale,
            weight_decay=0.0 if bare else group.weight_decay,
            size=math.prod(params[path].shape),
            weight_decay_end=None if bare else group.weight_decay_end,
            freeze_epochs=0.0 if frozen else group.freeze_epochs,
        )
    plan = Plan(stage.name, leaves)
    if not plan.trainable:
        raise UserError(f"stage {stage.name!r} trains nothing: every group that its rules match is frozen")
    rates = {leaves[path].group: leaves[path].lr for path in plan.trainable}
    if not any(rates.values()):
        raise UserError(
            f"stage {stage.name!r} trains nothing: the learning rate is 0 for {', '.join(rates)}. Give a rate, as in "
            f"--config.stages[i].groups.{next(iter(rates))}.lr=1e-3"
        )
    return plan


def select(selector: str, spec: Any) -> list[str]:
    """Return the names of the layers that a selector matches, in the model's order. Raises UserError if unknown."""
    blocks = [layer.name for layer in spec.layers if layer.kind == "block"]
    if selector == "@all":
        return [layer.name for layer in spec.layers]
    if selector in KINDS:
        return [layer.name for layer in spec.layers if layer.kind == KINDS[selector]]
    if found := re.fullmatch(r"@last(?::([1-9]\d*))?", selector):
        count = int(found[1] or spec.last_layers)
        if count > len(blocks):
            raise UserError(f"{selector!r} asks for {count} blocks, and {spec.name} has {len(blocks)}")
        return blocks[-count:]
    if found := re.fullmatch(r"@blocks\[(-?\d+)?:(-?\d+)?\]", selector):
        return blocks[slice(*(int(part) if part else None for part in found.groups()))]
    raise UserError(f"unknown selector {selector!r}; {did_you_mean(selector, SELECTORS)}")


def _regex(pattern: str, spec: Any, layer_of: Mapping[str, str]) -> str | None:
    """Convert a pattern to a regular expression; None for a selector of a kind of layer that the model may lack."""
    if not pattern.startswith("@"):
        return pattern
    chosen = select(pattern, spec)
    if not chosen and KINDS.get(pattern) in DISPENSABLE_KINDS:
        return None
    if not any(layer in chosen for layer in layer_of.values()):
        have = ", ".join(layer.name for layer in spec.layers)
        raise UserError(f"the rule {pattern!r} matches no parameter of {spec.name}; its layers: {have}")
    prefixes = [re.escape(p) for layer in spec.layers if layer.name in chosen for p in layer.prefixes]
    return rf"({'|'.join(prefixes)})(\..*)?"


def _layer_of(paths: Iterable[str], spec: Any) -> dict[str, str]:
    rules = [(rf"{re.escape(prefix)}(\..*)?", layer.name) for layer in spec.layers for prefix in layer.prefixes]
    used = [rule for rule in rules if any(re.fullmatch(rule[0], path) for path in paths)]
    return first_match(list(paths), used)


def _heights(layers: Sequence[Any]) -> dict[str, int]:
    """Return {layer name: its number from the input}; the final norm and the head are both at the top."""
    heights, block = {}, 0
    top = 1 + sum(layer.kind == "block" for layer in layers)
    for layer in layers:
        block += layer.kind == "block"
        heights[layer.name] = {"stem": 0, "block": block}.get(layer.kind, top)
    return heights


COLUMNS = ("layer", "group", "lr", "lr x", "wd", "no wd", "leaves", "parameters", "share")


def format_plan(plan: Plan) -> str:
    """Format the plan as a table: a row for each layer and group, then the trainable share.

    Columns: layer; group; lr: peak rate; lr x: the layer decay within it; wd: weight decay; no wd: leaves
    without it; leaves; parameters: elements; share: of the model's parameters, in %. Neighbouring frozen
    layers share a row.
    """
    total = sum(leaf.size for leaf in plan.leaves.values())
    rows: list[tuple[str, ...]] = [COLUMNS]
    for (label, group), leaves in _rows(plan):
        size = sum(leaf.size for leaf in leaves)
        bare = sum(leaf.weight_decay == 0 for leaf in leaves)
        rates = ("frozen", "", "", "")
        if not leaves[0].frozen:
            decayed = max(leaves, key=lambda leaf: leaf.weight_decay)
            end = decayed.weight_decay_end
            decay = f"{decayed.weight_decay:g}" + ("" if end is None else f" -> {end:g}")
            rates = (f"{leaves[0].lr:.3g}", f"{leaves[0].scale:.4g}", decay, str(bare))
        rows.append((label, group, *rates, str(len(leaves)), f"{size:,}", f"{size / total:.2%}"))
    share = f"{plan.trainable_params:,} of {total:,} parameters ({plan.trainable_fraction:.2%})"
    return "\n".join([f"stage {plan.stage}", format_table(rows, left=2), f"trainable: {share}"])


def _rows(plan: Plan) -> list[tuple[tuple[str, str], list[LeafPlan]]]:
    """Return ((layer, group), its leaves), with consecutive frozen layers of one group merged."""
    table: dict[tuple[str, str], list[LeafPlan]] = {}
    for leaf in plan.leaves.values():
        table.setdefault((leaf.layer, leaf.group), []).append(leaf)
    drawn = []
    for (group, frozen), run in groupby(table.items(), lambda row: (row[0][1], row[1][0].frozen)):
        run = list(run)
        if frozen and len(run) > 1:
            label = f"{run[0][0][0]} .. {run[-1][0][0]}"
            run = [((label, group), [leaf for _, leaves in run for leaf in leaves])]
        drawn += run
    return drawn
