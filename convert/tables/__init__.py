"""How each family's published layouts name their tensors: one module a family, which ends in its `FAMILY`."""

from convert.family import Family, Layout
from convert.tables import clip, convnext, heads, resnet, sam, vit
from jaxdino.models.spec import ModelSpec

FAMILIES: tuple[Family, ...] = (clip.FAMILY, sam.FAMILY, vit.FAMILY, convnext.FAMILY, resnet.FAMILY, heads.FAMILY)
"""Every family; one whose checkpoints could be taken for another's comes first."""

SPELLINGS = tuple(spelling for family in FAMILIES for spelling in family.spellings)
"""Names in memory of any family's layouts."""

LAYOUTS = tuple(sorted({layout for family in FAMILIES for _, layout in family.layouts}))
"""Every layout of any family."""


def serving() -> dict[str, Family]:
    """{value of `ModelSpec.family`: the converter's family}."""
    return {name: family for family in FAMILIES for name in family.names}


def layouts(spec: ModelSpec) -> dict[str, Layout]:
    """The layouts that a model is read from and written to."""
    return {layout: how for (name, layout), how in serving()[spec.family].layouts.items() if name == spec.family}
