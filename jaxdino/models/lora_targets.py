"""What a LoRA adapter is and which linear layers of a model get one."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.layers import Linear

PARTS = {"qkv": ("q", "k", "v"), "w12": ("w1", "w2")}
"""{name of a fused projection: what the equal runs of its columns are called, in order}."""
KINDS = {
    "@attn": r"[^.]*attn[^.]*\.(qkv|[qkv]_proj|proj|out_proj)",
    "@mlp": r"fc[12]|w12|w3|lin[12]|pwconv[12]",
    "@linear": r"(?!head$).*",
}
"""Kinds of linear layers: attention's, the feed-forward layers', all but a classification head."""


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which linear layers get an adapter, and of what shape.

    Attributes:
      rank: columns of A and rows of B.
      alpha: A B is multiplied by alpha / rank, by alpha / sqrt(rank) with `rslora`.
      dropout: share of A's inputs set to zero in training (see `set_dropout`), in 0..1.
      targets: each a regular expression on the end of a layer's path, from a dot: "attn.qkv", "fc[12]",
        r"text\\.blocks\\..*proj"; "q", "k", "v" for such a part of a fused qkv, or for q_proj, k_proj, v_proj;
        "w1", "w2" for a part of a fused w12; or one of `KINDS`.
      last_blocks: only in so many of the last blocks that the model's configuration lists; None for everywhere.
      dora: the columns of W + scale A B are brought to a learned length, the `magnitude` (out,).
    """

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q", "v")
    last_blocks: int | None = None
    rslora: bool = False
    dora: bool = False

    def __post_init__(self):
        targets = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        object.__setattr__(self, "targets", targets)
        blocks = self.last_blocks
        for name, good, want in (
            ("rank", _whole(self.rank) and self.rank > 0, "a whole number above 0"),
            ("alpha", _number(self.alpha) and self.alpha > 0, "a number above 0"),
            ("dropout", _number(self.dropout) and 0 <= self.dropout < 1, "in [0, 1)"),
            ("last_blocks", blocks is None or (_whole(blocks) and blocks > 0), "None or a whole number above 0"),
            ("targets", targets and all(isinstance(t, str) and t for t in targets), "names or patterns of layers"),
        ):
            if not good:
                raise UserError(f"LoRA {name}={getattr(self, name)!r}: give {want}")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "LoRA":
        """From a config; UserError with the nearest name for a field that there is not."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise UserError(f"LoRA has no field {name!r}; {did_you_mean(name, known)}")
        return cls(**fields)

    @property
    def scale(self) -> float:
        """What A B is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def places(model: nnx.Module, cfg: Any, spec: LoRA) -> dict[str, tuple[str, ...]]:
    """{path of a linear layer: the parts of it that the targets name, () for all of it}, in the model's order.

    Args:
      cfg: `.layers` in the paths of `model`: a configuration of the house, or a `ModelSpec`; for `last_blocks`.

    Raises:
      UserError: for a target that names no linear layer, with the nearest, or none of the last blocks.
    """
    names = {path: module for path, module in modules(model) if isinstance(module, Linear)}
    named = {name: place for path in names for name, place in _names(path)}
    within = _last_blocks(cfg, spec.last_blocks)
    chosen: dict[str, set[str]] = {}
    for target in spec.targets:
        regex = _regex(target)
        found = [place for name, place in named.items() if regex.fullmatch(name)]
        if not found:
            raise UserError(_unmatched(model, target, regex, named))
        kept = [(path, part) for path, part in found if within(path)]
        if not kept:
            raise UserError(
                f"the LoRA target {target!r} names layers such as {found[0][0]}, but none of the last "
                f"{spec.last_blocks} block(s) that the model lists: leave last_blocks away, or give more"
            )
        for path, part in kept:
            chosen.setdefault(path, set()).add(part)
    whole = {path: () if "" in parts else _in_order(path, parts) for path, parts in chosen.items()}
    return {path: whole[path] for path in names if path in whole}


def _in_order(path: str, parts: set[str]) -> tuple[str, ...]:
    return tuple(part for part in PARTS[path.rpartition(".")[2]] if part in parts)


def columns(part: str, n_out: int) -> slice:
    """Where a part lies in a fused kernel of so many columns."""
    siblings = next(parts for parts in PARTS.values() if part in parts)
    size, n = n_out // len(siblings), siblings.index(part)
    return slice(n * size, (n + 1) * size)


def modules(model: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Every module in it with its path."""
    for path, module in nnx.iter_modules(model):
        yield ".".join(map(str, path)), module


def _names(path: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """The names by which a target can mean a linear layer: (name, (path, part))."""
    yield path, (path, "")
    parent, _, last = path.rpartition(".")
    yield from ((f"{path}.{part}", (path, part)) for part in PARTS.get(last, ()))
    if last in [f"{part}_proj" for part in PARTS["qkv"]]:
        yield f"{parent}.{last[0]}", (path, "")


def _regex(target: str) -> re.Pattern:
    if target.startswith("@") and target not in KINDS:
        raise UserError(f"LoRA knows no kind of layers {target!r}; {did_you_mean(target, KINDS)}")
    try:
        return re.compile(rf"(.*\.)?({KINDS.get(target, target)})")
    except re.error as err:
        raise UserError(f"the LoRA target {target!r} is not a regular expression: {err}") from None


def _last_blocks(cfg: Any, count: int | None) -> Callable[[str], bool]:
    if count is None:
        return lambda path: True
    blocks = [layer for layer in cfg.layers if layer.kind == "block"]
    if count > len(blocks):
        raise UserError(f"LoRA last_blocks={count}: the model has {len(blocks)}")
    return lambda path: any(layer.holds(path) for layer in blocks[-count:])


def _unmatched(model: nnx.Module, target: str, regex: re.Pattern, named: Mapping[str, Any]) -> str:
    other = [path for path, module in modules(model) if regex.fullmatch(path) and hasattr(module, "kernel")]
    if other:
        return f"the LoRA target {target!r} names {other[0]}, a convolution: adapters stand on linear layers only"
    short = dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in named)
    return f"the LoRA target {target!r} names no linear layer of the model; {did_you_mean(target, [*short, *KINDS])}"
