"""Every model by its published name."""

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models import clip, clipdinosam, convnext, heads, resnet, sam
from jaxdino.models.published import SPECS, TINY
from jaxdino.models.spec import ModelSpec, Preprocess
from jaxdino.models.vit import ViTConfig

CONFIGS = {
    "clip": clip.CLIPConfig,
    "clipdinosam": clipdinosam.ClipDinoSamConfig,
    "dino": ViTConfig,
    "dinov2": ViTConfig,
    "dinov3": ViTConfig,
    "vit": ViTConfig,
    "convnext": convnext.ConvNeXtConfig,
    "resnet": resnet.ResNetConfig,
    "dino_resnet": resnet.ResNetConfig,
    "sam": sam.SamConfig,
    "dino_head": heads.DINOHeadConfig,
}
"""family -> the class of its configuration."""

MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in (*SPECS, *TINY)}
"""Every model by its published name."""


def get(name: str) -> ModelSpec:
    """The model of that name.

    Raises:
      UserError: with the nearest names, if there is none.
    """
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}; {did_you_mean(name, MODELS)}")
    return MODELS[name]


def from_json(fields: Mapping[str, Any]) -> ModelSpec:
    """A spec from what `dataclasses.asdict` made of it, after JSON has turned tuples into lists.

    Raises:
      UserError: for a family that is not known, or a name that could not be a file's.
    """
    family, name = fields["family"], fields["name"]
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"{name!r} is no name of a model: letters, digits, '_', '-' and '.' make one")
    if family not in CONFIGS:
        raise UserError(f"there is no family {family!r}; {did_you_mean(family, CONFIGS)}")
    own = {"config": _from_json(CONFIGS[family], fields["config"]), "preprocess": Preprocess.of(fields["preprocess"])}
    return ModelSpec(**{**fields, **own})


def _from_json(cls: Any, fields: Mapping[str, Any]) -> Any:
    """A dataclass, and those in its fields ("TowerConfig | None")."""
    hints, values = typing.get_type_hints(cls), {}
    for name, value in fields.items():
        inner = [kind for kind in (hints[name], *typing.get_args(hints[name])) if dataclasses.is_dataclass(kind)]
        nested = isinstance(value, Mapping) and bool(inner)
        values[name] = _from_json(inner[0], value) if nested else _tuples(value)
    return cls(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
