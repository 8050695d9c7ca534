"""The config.json that timm reads from a folder (`timm.create_model("local-dir:DIR")`)."""

from typing import Any

from convert.family import POOL_WORDS
from convert.preprocess import to_timm
from convert.store import Card
from jaxdino.models.classifier import POOLS

_WORDS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant", 4096: "7b"}


def architecture(card: Card) -> str | None:
    """timm's name of the model, None for a shape that timm has no name for."""
    spec, c = card.spec, card.spec.config
    if spec.name.endswith("_custom") or c.width not in _WORDS:
        return None
    word = _WORDS[c.width]
    if spec.family == "dinov3":
        plus = "_plus" if c.swiglu and word != "7b" else ""
        return f"vit_{word}{plus}_patch16_dinov3" + ("_qkvb" if c.qkv_bias else "")
    if spec.family == "dinov2":
        return f"vit_{word}_patch14_{'reg4_' if c.num_registers else ''}dinov2"
    return f"vit_{word}_patch{c.patch_size}_224"


def files(card: Card, dtype: str) -> dict[str, dict[str, Any]]:
    """config.json: architecture, head, pooling and preprocessing."""
    return {"config.json": _config(card)}


def notes(card: Card) -> list[str]:
    """timm pools the class token or the mean of the patches, never both."""
    return [f"timm has no such pooling: logits = head({POOL_WORDS[card.pool]})"] if wide(card) else []


def wide(card: Card) -> bool:
    """Whether the head sees more than one token, side by side."""
    return card.num_classes > 0 and POOLS[card.pool].widths > 1


def _config(card: Card) -> dict[str, Any]:
    how = card.spec.preprocess
    size = how.size[0] if how.size[0] == how.size[1] else list(how.size)
    pool = {"cls": "token", "mean": "avg"}.get(card.pool, "token")
    # Left alone, timm's ViT norms after averaging, not before; its DINOv3 architectures never do.
    norm = {"fc_norm": False} if pool == "avg" and card.spec.family != "dinov3" else {}
    return {
        "architecture": architecture(card),
        "num_classes": card.num_classes,
        "num_features": card.spec.config.width,
        "global_pool": pool,
        "model_args": {"img_size": size, "dynamic_img_size": True, "global_pool": pool, **norm},
        "pretrained_cfg": to_timm(card, "patch_embed.proj", "head"),
    }
