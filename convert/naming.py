"""Which published model has the shapes of a checkpoint."""

import dataclasses

from jaxdino.core.errors import UserError
from jaxdino.models.registry import MODELS, ModelSpec
from jaxdino.models.vit import ViTConfig

SHAPE_FIELDS = (
    "patch_size",
    "width",
    "depth",
    "num_heads",
    "mlp_dim",
    "swiglu",
    "layer_scale",
    "num_registers",
    "positions",
)
"""What makes two checkpoints the same published model; the rest may vary with layout and training."""


def spec_of(config: ViTConfig, family: str, mean: tuple[float, ...]) -> ModelSpec:
    """The published model of these shapes, or a new one named after its family; `mean` tells twins apart."""
    families = {"dino": ("dino", "vit"), "vit": ("vit", "dino")}.get(family, (family,))
    alike = [
        spec
        for wanted in families
        for spec in MODELS.values()
        if spec.family == wanted and all(getattr(spec.config, f) == getattr(config, f) for f in SHAPE_FIELDS)
    ]
    if alike:
        by_mean = [spec for spec in alike if spec.preprocess.mean == mean]
        by_norm = [spec for spec in alike if spec.config.local_cls_norm == config.local_cls_norm]
        return (by_mean or by_norm or alike)[0]
    like = next(spec for spec in MODELS.values() if spec.family == family and spec.hub)
    return dataclasses.replace(like, name=f"{family}_custom", hub=None)


def agree(spec: ModelSpec, config: ViTConfig) -> ModelSpec:
    """`spec`; UserError with the fields in which the checkpoint is another model."""
    wrong = [
        f"{field}: the checkpoint has {getattr(config, field)}, {spec.name} has {getattr(spec.config, field)}"
        for field in SHAPE_FIELDS
        if getattr(config, field) != getattr(spec.config, field)
    ]
    if wrong:
        raise UserError(f"the checkpoint is not a {spec.name}: " + "; ".join(wrong))
    return spec
