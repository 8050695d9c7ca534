"""Look up models by their published names."""

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models import clip, clipdinosam, convnext, heads, resnet, sam
from jaxdino.models.heads.projection import DINOHeadConfig
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
    "dino_head": DINOHeadConfig,
}
"""{family: class of its configuration}."""

MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in (*SPECS, *TINY)}
"""{published name: model}."""


def get(name: str) -> ModelSpec:
    """Return the model of that name.

    Raises:
      UserError: if there is none; the message names the nearest.
    """
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}; {did_you_mean(name, MODELS)}")
    return MODELS[name]


def to_json(spec: ModelSpec) -> dict[str, Any]:
    """Return the spec as values that JSON can hold; without `heads` if it has none, as in cards of version 0.1.0."""
    fields = dataclasses.asdict(spec)
    named = {name: heads.to_json(head) for name, head in spec.heads}
    return fields | {"heads": named} if named else {key: fields[key] for key in fields if key != "heads"}


def from_json(fields: Mapping[str, Any]) -> ModelSpec:
    """Rebuild a spec; the inverse of `to_json`, after JSON has turned tuples into lists.

    Raises:
      UserError: for an unknown family or head, or a name that is not valid in file names.
    """
    family, name = fields["family"], fields["name"]
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"{name!r} is not a valid name of a model: use letters, digits, '_', '-' and '.'")
    if family not in CONFIGS:
        raise UserError(f"there is no family {family!r}; {did_you_mean(family, CONFIGS)}")
    named = dict(fields.get("heads", ()))
    own = {
        "config": _from_json(CONFIGS[family], fields["config"]),
        "preprocess": Preprocess.of(fields["preprocess"]),
        "heads": tuple((name, heads.from_json(head, f"heads.{name}")) for name, head in named.items()),
    }
    return ModelSpec(**{**fields, **own})


def _from_json(cls: Any, fields: Mapping[str, Any]) -> Any:
    """Build a dataclass, including dataclasses in its fields ("TowerConfig | None")."""
    hints, values = typing.get_type_hints(cls), {}
    for name, value in fields.items():
        inner = [kind for kind in (hints[name], *typing.get_args(hints[name])) if dataclasses.is_dataclass(kind)]
        nested = isinstance(value, Mapping) and bool(inner)
        values[name] = _from_json(inner[0], value) if nested else _tuples(value)
    return cls(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
