"""Which published model has the shapes of a checkpoint."""

import dataclasses
from typing import Any

from convert.family import Family
from jaxdino.core.errors import UserError
from jaxdino.models.registry import MODELS
from jaxdino.models.spec import Config, ModelSpec

CUSTOM = "_custom"
"""After the family's name, that of a model whose shape none of the published ones has."""


def spec_of(config: Config, name: str, layout: str, family: Family, mean: tuple[float, ...]) -> ModelSpec:
    """The published model of these shapes, or a new one named after its family; `mean` tells twins apart."""
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
    """Published models of the same family and shapes as the one taken, that see other pixels."""
    found = [
        other
        for other in MODELS.values()
        if other.family == spec.family
        and other.preprocess.mean != spec.preprocess.mean
        and not _differences(other, config, family)
    ]
    if layout == "meta":  # the one layout that holds what else tells them apart, the norm for local crops
        found = [other for other in found if _in_common(other.config, config) == _in_common(spec.config, config)]
    return [other.name for other in found]


def agree(spec: ModelSpec, config: Config, family: Family) -> ModelSpec:
    """`spec`; UserError with the fields in which the checkpoint is another model.

    A field of None is a part that the checkpoint does not hold (one of CLIP's towers), which is no contradiction.
    """
    if wrong := [text for own, text in _differences(spec, config, family) if own is not None]:
        raise UserError(
            f"the checkpoint is not a {spec.name}: {'; '.join(wrong)}. (Shapes that nobody published are called "
            f"{spec.family}{CUSTOM}.)"
        )
    return spec


def _differences(spec: ModelSpec, config: Config, family: Family) -> list[tuple[Any, str]]:
    """The fields of the shape in which a checkpoint is another model than the published one: its value, and a text."""
    pairs = ((field, getattr(config, field), getattr(spec.config, field)) for field in family.shape)
    return [
        (own, f"{field}: the checkpoint has {own}, {spec.name} has {its}") for field, own, its in pairs if own != its
    ]


def _in_common(published: Config, config: Config) -> int:
    """How many fields two configurations of a family share."""
    return sum(getattr(published, f.name) == getattr(config, f.name) for f in dataclasses.fields(config))
