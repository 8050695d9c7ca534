"""What self-distillation trains: a backbone with its projection heads."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from jaxdino.core import params
from jaxdino.models.heads import DINOHead, DINOHeadConfig
from jaxdino.models.initial import SHAPES_ONLY
from jaxdino.models.layer_spec import Layer
from jaxdino.models.spec import ModelSpec
from jaxdino.objectives.distill_settings import Projection

HEADS = ("dino_head", "ibot_head")


def head_config(projection: Projection, width: int) -> DINOHeadConfig:
    """The shape of a head on features of a width."""
    fields = {name: value for name, value in dataclasses.asdict(projection).items() if name != "separate"}
    return DINOHeadConfig(in_dim=width, **fields)


class DistillModel(nnx.Module):
    """`backbone`, `dino_head` on its class token and, where patches have one of their own, `ibot_head`."""

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
    """A model with its projection heads as strategies see it: the backbone's layers, and the heads on top."""

    backbone: ModelSpec
    projection: Projection

    @property
    def name(self) -> str:
        """The backbone's."""
        return self.backbone.name

    @property
    def last_layers(self) -> int:
        """How many block layers "@last" means."""
        return self.backbone.last_layers

    @property
    def layers(self) -> tuple[Layer, ...]:
        """From the input to the output."""
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
        """The module with random parameters, as `ModelSpec.build`."""
        rngs, config = rngs or nnx.Rngs(0), self.backbone.config
        backbone = config.build(rngs=rngs, drop_path=drop_path, dtype=dtype, attention=attention, remat=remat)
        return DistillModel(backbone, config.width, self.projection, rngs, dtype)

    def skeleton(self, **how) -> params.Skeleton:
        """The skeleton of `build`'s module, without allocating its arrays."""
        return params.abstract(lambda: self.build(rngs=SHAPES_ONLY, **how))
