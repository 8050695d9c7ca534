"""The model of self-distillation: a backbone with its projection heads."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from jaxdino.core import params
from jaxdino.models.heads.projection import DINOHead, DINOHeadConfig
from jaxdino.models.initial import SHAPES_ONLY
from jaxdino.models.layer_spec import Layer
from jaxdino.models.spec import ModelSpec
from jaxdino.objectives.distill_settings import Projection

HEADS = ("dino_head", "ibot_head")


def head_config(projection: Projection, width: int) -> DINOHeadConfig:
    """Return the configuration of a head for features of this width."""
    fields = {name: value for name, value in dataclasses.asdict(projection).items() if name != "separate"}
    return DINOHeadConfig(in_dim=width, **fields)


class DistillModel(nnx.Module):
    """A `backbone`, a `dino_head` on its class token, and an `ibot_head` if patches have a separate head."""

    def __init__(self, backbone: nnx.Module, width: int, projection: Projection, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.backbone = backbone
        self.dino_head = DINOHead(head_config(projection, width), rngs=rngs, dtype=dtype)
        self.ibot_head = (
            DINOHead(head_config(projection, width), rngs=rngs, dtype=dtype) if projection.separate else None
        )

    @property
    def patch_head(self) -> DINOHead:
        """The head of the masked patches."""
        return self.ibot_head or self.dino_head


@dataclasses.dataclass(frozen=True)
class DistillSpec:
    """Spec of a model with projection heads, as strategies use it: the backbone's layers, and the heads on top."""

    backbone: ModelSpec
    projection: Projection

    @property
    def name(self) -> str:
        """The backbone's name."""
        return self.backbone.name

    @property
    def last_layers(self) -> int:
        """Number of blocks that "@last" selects."""
        return self.backbone.last_layers

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, from the input to the output."""
        return (*self.backbone.config.layers, Layer("head", "head", HEADS))

    def build(
        self,
        *,
        rngs: nnx.Rngs | None = None,
        drop_path: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        attention: str = "xla",
        remat: bool = False,
    ) -> DistillModel:
        """Build the module with random parameters; see `ModelSpec.build`."""
        rngs, config = rngs or nnx.Rngs(0), self.backbone.config
        backbone = config.build(rngs=rngs, drop_path=drop_path, dtype=dtype, attention=attention, remat=remat)
        return DistillModel(backbone, config.width, self.projection, rngs, dtype)

    def skeleton(self, **how) -> params.Skeleton:
        """Return the skeleton of `build`'s module, without allocating its arrays."""
        return params.abstract(lambda: self.build(rngs=SHAPES_ONLY, **how))
