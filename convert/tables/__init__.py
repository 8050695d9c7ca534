"""Tensor names of each family's published layouts: one module per family, with its `FAMILY` at the end."""

from convert.family import Family, Layout
from convert.tables import clip, convnext, heads, resnet, sam, vit
from jaxdino.models.spec import ModelSpec

FAMILIES: tuple[Family, ...] = (clip.FAMILY, sam.FAMILY, vit.FAMILY, convnext.FAMILY, resnet.FAMILY, heads.FAMILY)
"""Every family, in the order of detection: more specific families come first."""

SPELLINGS = tuple(spelling for family in FAMILIES for spelling in family.spellings)
"""In-memory names of all families' layouts."""

LAYOUTS = tuple(sorted({layout for family in FAMILIES for _, layout in family.layouts}))
"""All layouts of all families."""


def serving() -> dict[str, Family]:
    """Return {value of `ModelSpec.family`: the converter's family}."""
    return {name: family for family in FAMILIES for name in family.names}


def layouts(spec: ModelSpec) -> dict[str, Layout]:
    """Return the layouts that a model can be read from and written to; {} for a model that no PyTorch library has."""
    family = serving().get(spec.family)
    return {layout: how for (name, layout), how in family.layouts.items() if name == spec.family} if family else {}
