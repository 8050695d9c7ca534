"""Find the linear layers of a model that get an adapter."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.pattern import Pattern
from jaxdino.core.rules import did_you_mean
from jaxdino.models.layers import Linear
from jaxdino.models.lora_spec import LoRA

PARTS = {"qkv": ("q", "k", "v"), "w12": ("w1", "w2")}
"""{name of a fused projection: names of the equal parts of its columns, in order}."""
KINDS = {
    "@attn": r"[^.]*attn[^.]*\.(qkv|[qkv]_proj|proj|out_proj)",
    "@mlp": r"fc[12]|w12|w3|lin[12]|pwconv[12]",
    "@linear": r"(?!head$).*",
}
"""Kinds of linear layers: attention, feed-forward, and all except a classification head."""


def places(model: nnx.Module, cfg: Any, spec: LoRA) -> dict[str, tuple[str, ...]]:
    """Return {path of a linear layer: its parts named by the targets, () for the whole layer}, in the model's order.

    Args:
      cfg: a model configuration or a `ModelSpec` with `.layers` in the paths of `model`; used for `last_blocks`.

    Raises:
      UserError: for a target that names no linear layer, with the nearest names, or none in the last blocks.
    """
    names = {path: module for path, module in modules(model) if isinstance(module, Linear)}
    named = {name: place for path in names for name, place in _names(path)}
    within = _last_blocks(cfg, spec.last_blocks)
    chosen: dict[str, set[str]] = {}
    for target in spec.targets:
        pattern = _pattern(target)
        found = [place for name, place in named.items() if pattern.matches(name)]
        if not found:
            raise UserError(_unmatched(model, target, pattern, named))
        kept = [(path, part) for path, part in found if within(path)]
        if not kept:
            raise UserError(
                f"the LoRA target {target!r} names layers such as {found[0][0]}, but none of the last "
                f"{spec.last_blocks} block(s) that the model lists: leave last_blocks out, or increase it"
            )
        for path, part in kept:
            chosen.setdefault(path, set()).add(part)
    whole = {path: () if "" in parts else _in_order(path, parts) for path, parts in chosen.items()}
    return {path: whole[path] for path in names if path in whole}


def _in_order(path: str, parts: set[str]) -> tuple[str, ...]:
    return tuple(part for part in PARTS[path.rpartition(".")[2]] if part in parts)


def columns(part: str, n_out: int) -> slice:
    """Return the columns of a part in a fused kernel of `n_out` columns."""
    siblings = next(parts for parts in PARTS.values() if part in parts)
    size, n = n_out // len(siblings), siblings.index(part)
    return slice(n * size, (n + 1) * size)


def modules(model: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Iterate over all modules, with their paths."""
    for path, module in nnx.iter_modules(model):
        yield ".".join(map(str, path)), module


def _names(path: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Iterate over the target names that match a linear layer: (name, (path, part))."""
    yield path, (path, "")
    parent, _, last = path.rpartition(".")
    yield from ((f"{path}.{part}", (path, part)) for part in PARTS.get(last, ()))
    if last in [f"{part}_proj" for part in PARTS["qkv"]]:
        yield f"{parent}.{last[0]}", (path, "")


def _pattern(target: str) -> Pattern:
    if target.startswith("@") and target not in KINDS:
        raise UserError(f"LoRA knows no kind of layers {target!r}; {did_you_mean(target, KINDS)}")
    Pattern(target, "the LoRA target")  # alone: a bracket that closes ours would pass
    return Pattern(rf"(.*\.)?({KINDS.get(target, target)})", "the LoRA target")


def _last_blocks(cfg: Any, count: int | None) -> Callable[[str], bool]:
    if count is None:
        return lambda path: True
    blocks = [layer for layer in cfg.layers if layer.kind == "block"]
    if count > len(blocks):
        raise UserError(f"LoRA last_blocks={count}: the model has {len(blocks)}")
    return lambda path: any(layer.holds(path) for layer in blocks[-count:])


def _unmatched(model: nnx.Module, target: str, pattern: Pattern, named: Mapping[str, Any]) -> str:
    other = [path for path, module in modules(model) if pattern.matches(path) and hasattr(module, "kernel")]
    if other:
        return f"the LoRA target {target!r} names {other[0]}, a convolution: only linear layers can have adapters"
    short = dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in named)
    return f"the LoRA target {target!r} names no linear layer of the model; {did_you_mean(target, [*short, *KINDS])}"
