"""What a reference model is to the tests: how it is built, saved and looked into."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

WIDTH, DEPTH, HEADS, PATCH, GRID, CLASSES = 64, 3, 4, 4, 4, 5
"""The tiny shape that all reference models share; position tables are GRID x GRID."""

SIZES = {"native": (4, 4), "square": (6, 6), "wide": (2, 8)}
"""Image sizes in patches; "wide" has as many patches as the native size, so that a count alone tells no difference."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A tiny PyTorch model with the structure of one family and layout.

    Attributes:
      build: makes the model. save: (model, folder) -> the file or folder that `load_pretrained` reads.
      blocks, norm: dotted names of the list of blocks and of the final norm.
      run: (model, images) -> {"pooled", "logits"}, as far as the model has them, after a full forward pass.
      registers: number of register tokens.
      overrules: given to `load_pretrained`, for what the layout does not tell.
    """

    build: Callable[[], nn.Module]
    save: Callable[[nn.Module, Path], Path]
    blocks: str
    norm: str
    run: Callable[[nn.Module, torch.Tensor], dict[str, torch.Tensor]]
    registers: int = 0
    overrules: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def look(case: Case, model: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the reference gives at each place that the tests compare; see `ours.look` for the names."""
    blocks, norm = model.get_submodule(case.blocks), model.get_submodule(case.norm)
    states, final = [], []
    hooks = [block.register_forward_hook(lambda _, args, out: states.append(out)) for block in blocks]
    hooks.append(blocks[0].register_forward_pre_hook(lambda _, args: states.append(args[0])))
    hooks.append(norm.register_forward_hook(lambda _, args, out: final.append(out)))
    extra = case.run(model, pixels)
    for hook in hooks:
        hook.remove()
    seen = {"embedding": states[0], "block 0": states[1], **_sort(case, final[-1], "")}
    seen["pooled"] = extra.get("pooled", seen["class token"])
    if "logits" in extra:
        seen["logits"] = extra["logits"]
    for n, state in enumerate(states[-2:]):
        seen |= _sort(case, norm(state), f"intermediate {n} ")
    return seen


def _sort(case: Case, tokens: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
    first = 1 + case.registers
    parts = {"class token": tokens[:, 0], "patches": tokens[:, first:]}
    if case.registers:
        parts["registers"] = tokens[:, 1:first]
    return {name + part: value for part, value in parts.items()}
