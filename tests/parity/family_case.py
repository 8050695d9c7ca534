"""What a reference model of any family is to the tests that all families share (test_families.py)."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class FamilyCase:
    """A tiny PyTorch model with the structure of one family and layout.

    Attributes:
      family, layout: as the converter names them.
      build: makes the model, parameters not drawn yet.
      save: (model, folder) -> the file or folder that `load_pretrained` reads.
      inputs: {name of the size: {name: tensor}}: what the two forward passes are given, PyTorch's axes (B, C, H, W).
      theirs: (model, inputs) -> {place: tensor}: the original's values at the places that are compared.
      ours: (our module, inputs as arrays) -> {place: array}: the same places, in the original's order of axes.
        Images come as (B, H, W, C), everything else as it is.
      overrules: given to `load_pretrained`, for what the layout does not tell.
      silent: paths (patterns of fnmatch) that no place depends on, with the reason in a comment where they are set.
      thorough: whether gradients and the effect of every single parameter are looked at too.
      refused: layouts that cannot hold the model: export must say so.
      prepare: draws what `drawing.draw` does not (batch statistics).
    """

    family: str
    layout: str
    build: Callable[[], nn.Module]
    save: Callable[[nn.Module, Path], Path]
    inputs: Mapping[str, Mapping[str, torch.Tensor]]
    theirs: Callable[[nn.Module, Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]
    ours: Callable[[Any, Mapping[str, jax.Array]], dict[str, jax.Array]]
    overrules: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    silent: tuple[str, ...] = ()
    thorough: bool = True
    refused: tuple[str, ...] = ()
    prepare: Callable[[nn.Module], None] = lambda model: None
