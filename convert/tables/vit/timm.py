"""Write the config.json that timm reads from a folder (`timm.create_model("local-dir:DIR")`)."""

import math
from typing import Any

from convert.card import Card
from convert.preprocess import to_timm
from jaxdino.models.heads.linear import POOLS
from jaxdino.models.vit import ViTConfig

_WORDS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant", 4096: "7b"}


def architecture(card: Card) -> str:
    """Return timm's name of the model; for an unnamed shape, a model with the same code to reshape."""
    spec, c = card.spec, card.spec.config
    if spec.name.endswith("_custom") or c.width not in _WORDS:
        return _like(spec.family, c)
    word = _WORDS[c.width]
    if spec.family == "dinov3":
        plus = "_plus" if c.swiglu and word != "7b" else ""
        return f"vit_{word}{plus}_patch16_dinov3" + ("_qkvb" if c.qkv_bias else "")
    if spec.family == "dinov2":
        return f"vit_{word}_patch14_{'reg4_' if c.num_registers else ''}dinov2"
    return f"vit_{word}_patch{c.patch_size}_224"


def _like(family: str, c: ViTConfig) -> str:
    if family == "dinov3":
        return "vit_small_patch16_dinov3"
    if family == "dinov2":  # only "giant" has a SwiGLU, which model_args cannot set
        return f"vit_{'giant' if c.swiglu else 'small'}_patch14_{'reg4_' if c.num_registers else ''}dinov2"
    return "vit_small_patch16_224"


def files(card: Card, dtype: str) -> dict[str, dict[str, Any]]:
    """Build config.json: architecture and its arguments, head, pooling and preprocessing."""
    return {"config.json": _config(card)}


def prefix(card: Card) -> str | None:
    """Return None for a head on concatenated tokens: timm pools either the class token or the patches."""
    return None if POOLS[card.pool].widths > 1 else ""


def _config(card: Card) -> dict[str, Any]:
    pool = {"cls": "token", "mean": "avg"}.get(card.pool, "token")
    # By default timm's ViT applies the norm after averaging, not before; its DINOv3 architectures never do.
    norm = {"fc_norm": False} if pool == "avg" and card.spec.family != "dinov3" else {}
    shape = _shape(card.spec.family, card.spec.config)
    return {
        "architecture": architecture(card),
        "num_classes": card.num_classes,
        "num_features": card.spec.config.width,
        "global_pool": pool,
        "model_args": {"img_size": _size(card), "dynamic_img_size": True, "global_pool": pool, **norm, **shape},
        "pretrained_cfg": to_timm(card, "patch_embed.proj", "head"),
    }


def _size(card: Card) -> int | list[int]:
    """Return the position table's image size, so timm does not resample it; without a table, the model's size."""
    c = card.spec.config
    size = tuple(n * c.patch_size for n in c.pos_grid) if c.positions == "learned" else card.spec.preprocess.size
    return size[0] if size[0] == size[1] else list(size)


def _shape(family: str, c: ViTConfig) -> dict[str, Any]:
    """Return the numeric arguments of timm's class; norms and activations are those of the architecture."""
    packed = c.swiglu and family != "dinov3"  # both halves of the SwiGLU in one layer
    shape = {
        "patch_size": c.patch_size,
        "in_chans": c.in_channels,
        "embed_dim": c.width,
        "depth": c.depth,
        "num_heads": c.num_heads,
        "mlp_ratio": _ratio((1 + packed) * c.mlp_dim, c.width),
        "qkv_bias": c.qkv_bias,
        "init_values": 1e-5 if c.layer_scale else None,
    }
    if family == "dinov3":
        gate = {"swiglu_mlp": c.swiglu, "swiglu_align_to": int(c.swiglu)}
        return shape | {"num_reg_tokens": c.num_registers, "rope_temperature": c.rope_base, **gate}
    return shape | {"reg_tokens": c.num_registers, "no_embed_class": not c.pos_cls}


def _ratio(hidden: int, width: int) -> float:
    """Return a ratio for which `int(width * ratio)` equals `hidden`."""
    found = hidden / width
    while int(width * found) < hidden:
        found = math.nextafter(found, math.inf)
    return found
