"""The published vision transformers: DINO, DINOv2, DINOv3 and timm's."""

from typing import Any

from jaxdino.models.spec import IMAGENET, INCEPTION, ModelSpec, Preprocess
from jaxdino.models.vit import ViTConfig

SATELLITE = ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))

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
    fields: dict[str, Any] = dict(pos_grid=(37, 37), layer_scale=True, mask_token=True, swiglu=size == "g")
    how: dict[str, Any] = dict(num_registers=4, pos_antialias=True) if registers else dict(pos_offset=0.1)
    return ModelSpec(
        name=f"dinov2_vit{size}14" + ("_reg" if registers else ""),
        family="dinov2",
        config=_config(size, 14, **fields, **how),
        pool="cls_mean",
        hub=f"facebook/dinov2-{'with-registers-' if registers else ''}{word}",
        page="https://github.com/facebookresearch/dinov2",
    )


DINOV3: dict[str, Any] = dict(
    positions="rope", num_registers=4, mask_token=True, layer_scale=True, mask_k_bias=True, norm_eps=1e-5
)
"""Settings shared by all DINOv3 ViTs."""


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

SPECS = (
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
