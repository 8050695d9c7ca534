"""A model as data: its family and shape, its preprocessing, where its weights are published."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax.numpy as jnp
from flax import nnx

from jaxdino.core import params
from jaxdino.core.resize import Resize
from jaxdino.models.component import Component
from jaxdino.models.heads import HeadConfig, NamedHeads
from jaxdino.models.heads.linear import LinearHeadConfig
from jaxdino.models.initial import SHAPES_ONLY
from jaxdino.models.layer_spec import Layer
from jaxdino.models.network import Network
from jaxdino.models.remat import Remat

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """The preprocessing of images for a model.

    Attributes:
      mean, std: per channel, for pixels in 0..1.
      size: (height, width) of the centre crop in pixels.
      crop_pct, interpolation, crop_mode, crop_rounding: see `jaxdino.core.resize.Resize`.
      sixteen_bit: the range of 16-bit, 32-bit and float pixels, as in `data.ranges.Range`; "auto" if unknown.
    """

    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    size: tuple[int, int] = (224, 224)
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    crop_mode: str = "center"
    crop_rounding: str = "even"
    sixteen_bit: str = "auto"

    @property
    def resize(self) -> Resize:
        """The geometry.

        Pixels outside the image get the mean colour, as in timm, or black if images are not resized, as in
        transformers.
        """
        fill = tuple(min(255, max(0, round(255 * value))) for value in self.mean) if self.crop_mode == "border" else ()
        return Resize(self.crop_pct, self.interpolation, self.crop_mode, self.crop_rounding, fill)

    @classmethod
    def of(cls, fields: dict) -> "Preprocess":
        """Build it from JSON, where tuples have become lists."""
        given: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in fields.items()}
        return cls(**given)


class Config(Protocol):
    """The interface of every family's configuration, a frozen dataclass in its model file.

    Attributes:
      width: width of the input features of a classification head.
      in_channels: number of channels of the images; 0 for a network that takes features instead.
      input_kernel: path of the first kernel, applied to the images, (h, w, channels, D); "" without one.
      layers: the network's layers from the input to the output, without the head.
    """

    input_kernel: ClassVar[str]

    @property
    def width(self) -> int: ...

    @property
    def in_channels(self) -> int: ...

    @property
    def layers(self) -> tuple[Layer, ...]: ...

    def places(self) -> list[dict[str, int]]:
        """Values of the placeholders of a weight table: one dictionary for each block, `{"i": 3}`."""
        ...

    def build(self, *, rngs: nnx.Rngs, drop_path: float, dtype: jnp.dtype, attention: str, remat: Remat) -> Any:
        """Build the network with random parameters: called on images, it returns an `Output`."""
        ...


class ImageConfig(Config, Protocol):
    """The configuration of a family that takes images."""

    def with_channels(self, channels: int) -> "ImageConfig":
        """Return the configuration for images with this number of channels."""
        ...


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model: its shape, its preprocessing, where its weights are published.

    Attributes:
      family: a key of `registry.CONFIGS`.
      pool: the input features of the family's own classification heads (see `heads.linear.POOLS`).
      hub: the Hugging Face repository of the weights; page: the web page of weights published elsewhere.
      last_layers: number of block layers selected by "@last" in a strategy.
      heads: further heads by name, such as the projection heads of self-distillation; see `build` for `head`.
    """

    name: str
    family: str
    config: Config
    preprocess: Preprocess = Preprocess()
    pool: str = "cls"
    hub: str | None = None
    page: str = ""
    last_layers: int = 2
    heads: NamedHeads = ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The model's layers from the input to the output; each parameter belongs to exactly one."""
        return (*self.config.layers, Layer("head", "head", ("head", *dict(self.heads))))

    @property
    def components(self) -> Mapping[str, Component]:
        """The components of a composite model; {} for a model of one piece."""
        return getattr(self.config, "components", {})

    def build(
        self,
        num_classes: int = 0,
        *,
        pool: str | None = None,
        head: HeadConfig | None = None,
        rngs: nnx.Rngs | None = None,
        drop_path: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        attention: str = "xla",
        remat: Remat = False,
    ) -> Network:
        """Build a module with random parameters.

        Args:
          head: the head at the path `head`, if it has classes; by default the linear one, with `num_classes` classes on
            `pool` (by default the family's).
          dtype: the compute dtype; parameters are float32.
        """
        rngs, head = rngs or nnx.Rngs(0), head or self.linear(num_classes, pool)
        heads = ((("head", head),) if head.num_classes else ()) + self.heads
        backbone = self.config.build(rngs=rngs, drop_path=drop_path, dtype=dtype, attention=attention, remat=remat)
        return Network(backbone, self.config.width, heads, rngs, dtype)

    def linear(self, num_classes: int = 0, pool: str | None = None) -> LinearHeadConfig:
        """Return the linear head with these classes, by default on the family's own pooling."""
        return LinearHeadConfig(num_classes, pool or self.pool)

    def skeleton(
        self, num_classes: int = 0, *, pool: str | None = None, head: HeadConfig | None = None, **how
    ) -> params.Skeleton:
        """Return the skeleton of `build`'s module, without allocating its arrays; cached by arguments."""
        return _skeleton(self, head or self.linear(num_classes, pool), tuple(sorted(how.items())))


@functools.lru_cache(maxsize=64)
def _skeleton(spec: ModelSpec, head: HeadConfig, how: tuple[tuple[str, Any], ...]) -> params.Skeleton:
    return params.abstract(lambda: spec.build(head=head, rngs=SHAPES_ONLY, **dict(how)))
