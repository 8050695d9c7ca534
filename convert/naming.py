"""Find the published model with the shapes of a checkpoint."""

import dataclasses
from typing import Any

from convert.family import Family
from jaxdino.core.errors import UserError
from jaxdino.models.registry import MODELS
from jaxdino.models.spec import Config, ModelSpec

CUSTOM = "_custom"
"""Suffix after the family's name, for a model whose shape is not published."""


def spec_of(config: Config, name: str, layout: str, family: Family, mean: tuple[float, ...]) -> ModelSpec:
    """Return the published model of this shape, or a new spec named after its family; `mean` separates twins."""
    twins = [twin for twin in family.twins if name in family.twins and (twin, layout) in family.layouts]
    names = dict.fromkeys((name, *twins))
    alike = [
        spec
        for wanted in names
        for spec in MODELS.values()
        if spec.family == wanted and not _differences(spec, config, family)
    ]
    if alike:
        by_mean = [spec for spec in alike if spec.preprocess.mean == mean]
        return (by_mean or sorted(alike, key=lambda spec: -_in_common(spec.config, config)))[0]
    like = min((spec for spec in MODELS.values() if spec.family == name), key=lambda spec: spec.hub is None)
    return dataclasses.replace(like, name=name + CUSTOM, hub=None)


def rivals(spec: ModelSpec, config: Config, family: Family, layout: str) -> list[str]:
    """Return published models with the same family and shape but another preprocessing."""
    found = [
        other
        for other in MODELS.values()
        if other.family == spec.family
        and other.preprocess.mean != spec.preprocess.mean
        and not _differences(other, config, family)
    ]
    if layout == "meta":  # only this layout contains the norm for local crops, which separates them
        found = [other for other in found if _in_common(other.config, config) == _in_common(spec.config, config)]
    return [other.name for other in found]


def agree(spec: ModelSpec, config: Config, family: Family) -> ModelSpec:
    """Return `spec`, or raise UserError with the fields in which the checkpoint differs.

    A field of None is a part that the checkpoint does not contain (one of CLIP's towers); it is not a difference.
    """
    if wrong := [text for own, text in _differences(spec, config, family) if own is not None]:
        raise UserError(
            f"the checkpoint is not a {spec.name}: {'; '.join(wrong)}. (Unpublished shapes are called "
            f"{spec.family}{CUSTOM}.)"
        )
    return spec


def _differences(spec: ModelSpec, config: Config, family: Family) -> list[tuple[Any, str]]:
    """Return (value, message) for each shape field in which a checkpoint differs from the published model."""
    pairs = ((field, getattr(config, field), getattr(spec.config, field)) for field in family.shape)
    return [
        (own, f"{field}: the checkpoint has {own}, {spec.name} has {its}") for field, own, its in pairs if own != its
    ]


def _in_common(published: Config, config: Config) -> int:
    """Count the fields that are equal in two configurations of a family."""
    return sum(getattr(published, f.name) == getattr(config, f.name) for f in dataclasses.fields(config))
