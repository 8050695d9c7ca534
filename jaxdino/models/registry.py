"""Every model by its published name, and what must travel with its weights."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from jaxdino.core import params
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.classifier import Classifier
from jaxdino.models.vit import ViT, ViTConfig

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SATELLITE = ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How images become the model's input.

    Attributes:
      mean, std: per channel, for pixels in 0..1.
      size: (height, width) of the centre crop in pixels.
      crop_pct: the shorter side is first resized to size / crop_pct.
      interpolation: "bicubic" or "bilinear", Pillow's filters.
    """

    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    size: tuple[int, int] = (224, 224)
    crop_pct: float = 0.875
    interpolation: str = "bicubic"

    @classmethod
    def of(cls, fields: dict) -> "Preprocess":
        """From JSON, where tuples have become lists."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})


@dataclasses.dataclass(frozen=True)
class Layer:
    """One entry of a model's ordered list of layers: strategies and layer-wise decay are written against it.

    Attributes:
      kind: "stem", "block", "norm" or "head".
      prefixes: the parameters whose path is or starts (at a dot) with one of these belong to the layer.
    """

    name: str
    kind: str
    prefixes: tuple[str, ...]

    def holds(self, path: str) -> bool:
        """Whether the parameter at `path` belongs to this layer."""
        return any(path == prefix or path.startswith(prefix + ".") for prefix in self.prefixes)


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model: its shape, its preprocessing, where its weights are published.

    Attributes:
      family: "dino", "dinov2", "dinov3" or "vit".
      pool: what the family's own classification heads look at (see `classifier.POOLS`).
      hub: the Hugging Face repository of the weights; page: where Meta or timm publish them otherwise.
      last_layers: how many block layers the word "@last" of a strategy means.
    """

    name: str
    family: str
    config: ViTConfig
    preprocess: Preprocess = Preprocess()
    pool: str = "cls"
    hub: str | None = None
    page: str = ""
    last_layers: int = 2

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The model's layers from the input to the output; every parameter lies in exactly one."""
        stem = ("cls_token", "pos_embed", "register_tokens", "mask_token", "patch_embed", "rope")
        top = ("norm", "local_cls_norm", "pooler")
        return (
            Layer("embed", "stem", tuple(f"backbone.{name}" for name in stem)),
            *(Layer(f"blocks.{i}", "block", (f"backbone.blocks.{i}",)) for i in range(self.config.depth)),
            Layer("norm", "norm", tuple(f"backbone.{name}" for name in top)),
            Layer("head", "head", ("head",)),
        )

    def build(
        self,
        num_classes: int = 0,
        *,
        pool: str | None = None,
        rngs: nnx.Rngs | None = None,
        drop_path: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        attention: str = "xla",
        remat: bool = False,
    ) -> Classifier:
        """A module with random parameters; `dtype` is the compute dtype, parameters are float32."""
        rngs = rngs or nnx.Rngs(0)
        backbone = ViT(self.config, rngs=rngs, drop_path=drop_path, dtype=dtype, attention=attention, remat=remat)
        return Classifier(backbone, self.config.width, num_classes, pool or self.pool, rngs)

    def skeleton(self, num_classes: int = 0, **kwargs) -> params.Skeleton:
        """The skeleton of `build`'s module, without allocating its arrays."""
        return params.abstract(lambda: self.build(num_classes, **kwargs))


_SIZES = {  # width, depth, heads, feed-forward width
    "ti": (192, 12, 3, 768),
    "s": (384, 12, 6, 1536),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "g": (1536, 40, 24, 4096),
    "splus": (384, 12, 6, 1536),
    "hplus": (1280, 32, 20, 5120),
    "7b": (4096, 40, 32, 8192),
}


def _config(size: str, patch: int, **fields) -> ViTConfig:
    width, depth, heads, mlp = _SIZES[size]
    return ViTConfig(patch_size=patch, width=width, depth=depth, num_heads=heads, mlp_dim=mlp, **fields)


def _dino(size: str, patch: int) -> ModelSpec:
    grid = (224 // patch, 224 // patch)
    return ModelSpec(
        name=f"dino_vit{size}{patch}",
        family="dino",
        config=_config(size, patch, pos_grid=grid, pos_offset=0.1),
        hub=f"facebook/dino-vit{size}{patch}",
        page="https://github.com/facebookresearch/dino",
    )


def _dinov2(size: str, word: str, registers: bool) -> ModelSpec:
    fields = dict(pos_grid=(37, 37), layer_scale=True, mask_token=True, swiglu=size == "g")
    how = dict(num_registers=4, pos_antialias=True) if registers else dict(pos_offset=0.1)
    return ModelSpec(
        name=f"dinov2_vit{size}14" + ("_reg" if registers else ""),
        family="dinov2",
        config=_config(size, 14, **fields, **how),
        pool="cls_mean",
        hub=f"facebook/dinov2-{'with-registers-' if registers else ''}{word}",
        page="https://github.com/facebookresearch/dinov2",
    )


DINOV3 = dict(positions="rope", num_registers=4, mask_token=True, layer_scale=True, mask_k_bias=True, norm_eps=1e-5)
"""What all DINOv3 ViTs share."""


def _dinov3(size: str, weights: str = "lvd1689m") -> ModelSpec:
    published = {"splus": "s16plus", "hplus": "h16plus", "7b": "7b16"}.get(size, f"{size}16")
    satellite = weights == "sat493m"
    mean, std = SATELLITE if satellite else IMAGENET
    fields = dict(DINOV3, swiglu=size in ("splus", "hplus", "7b"), qkv_bias=size != "7b")
    fields["local_cls_norm"] = size == "7b" or satellite
    return ModelSpec(
        name=f"dinov3_vit{published}" + ("_sat" if satellite else ""),
        family="dinov3",
        config=_config(size, 16, **fields),
        preprocess=Preprocess(mean=mean, std=std),
        hub=f"facebook/dinov3-vit{published}-pretrain-{weights}",
        page="https://github.com/facebookresearch/dinov3",
    )


def _timm(size: str, word: str, patch: int) -> ModelSpec:
    name = f"vit_{word}_patch{patch}_224"
    mean, std = INCEPTION
    return ModelSpec(
        name=name,
        family="vit",
        config=_config(size, patch, pos_grid=(224 // patch, 224 // patch), pos_antialias=True),
        preprocess=Preprocess(mean=mean, std=std, crop_pct=0.9),
        hub=f"timm/{name}.augreg_in21k_ft_in1k",
        page="https://github.com/huggingface/pytorch-image-models",
    )


DIGITS = ModelSpec(
    name="dinov3_digits",
    family="dinov3",
    config=ViTConfig(patch_size=4, width=96, depth=6, num_heads=3, mlp_dim=384, **DINOV3),
    preprocess=Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3, size=(32, 32), crop_pct=1.0),
)
"""The embedded model: a small DINOv3-shaped ViT whose weights ship with the package."""

MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        DIGITS,
        *(_dino(size, patch) for size in "sb" for patch in (8, 16)),
        *(
            _dinov2(size, word, registers)
            for registers in (False, True)
            for size, word in zip("sblg", ("small", "base", "large", "giant"), strict=True)
        ),
        *(_dinov3(size) for size in ("s", "splus", "b", "l", "hplus", "7b")),
        *(_dinov3(size, "sat493m") for size in ("l", "7b")),
        _timm("ti", "tiny", 16),
        *(_timm("s", "small", patch) for patch in (16, 32)),
        *(_timm("b", "base", patch) for patch in (8, 16, 32)),
        _timm("l", "large", 16),
    )
}
"""Every model by its published name."""


def get(name: str) -> ModelSpec:
    """The model of that name.

    Raises:
      UserError: with the nearest names, if there is none.
    """
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}; {did_you_mean(name, MODELS)}")
    return MODELS[name]
