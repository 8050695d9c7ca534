"""Refuse other networks that share keys with our ViTs, with an error that names the variant."""

from collections.abc import Mapping
from typing import Any

from convert.family import Shapes
from jaxdino.core.errors import UserError

_RELATIVE = "relative positions (BEiT, data2vec)"
_DISTILLED = "a token for distillation (DeiT's distilled models); DeiT's others are known"
_CONVNEXT = "the keys of transformers' ConvNeXt; of ConvNeXts, DINOv3's are known, and timm's convnext_*"
VARIANTS: tuple[tuple[str, str], ...] = (
    ("encoder.stages.0.layers.0.dwconv.weight", _CONVNEXT),
    ("dist_token", _DISTILLED),
    ("embeddings.distillation_token", _DISTILLED),
    ("embeddings.detection_tokens", "tokens for detection (YOLOS)"),
    ("blocks.0.attn.relative_position_bias_table", _RELATIVE),
    ("blocks.0.attn.q_proj.weight", "separate queries, keys and values (EVA-02)"),
    ("rel_pos_bias.relative_position_bias_table", _RELATIVE),
    ("encoder.layer.0.lambda_1", _RELATIVE),
    ("attn_pool.latent", "attention pooling (SigLIP, timm's global_pool='map')"),
    (
        "norm_pre.weight",
        "a norm before its blocks (timm's CLIP towers); CLIP's are read from OpenAI's, open_clip's and transformers' "
        "files",
    ),
    ("blocks.0.attn.q_norm.weight", "norms of queries and keys (timm's qk_norm)"),
    (
        "fc_norm.weight",
        "fc_norm in place of the final norm (timm's global_pool='avg', as in fine-tuned masked auto-encoders); their "
        "pre-trained checkpoints, with norm, are known",
    ),
)
"""(a key, the feature of networks that have it)."""
LAYER_SCALES = ("blocks.0.ls1.gamma", "blocks.0.gamma_1")
TOKENS = ("cls_token", "embeddings.cls_token")
TABLES = ("pos_embed", "embeddings.position_embeddings")
ROTARY = (
    "rope_embed.periods",
    "storage_tokens",
    "blocks.0.gamma_1",
    "layer.0.norm1.weight",
    "embeddings.patch_embeddings.weight",
)
"""Keys of layer scales, the class token and position tables in every layout, and of DINOv3, which has no table."""
KNOWN = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit_msn", "vit_mae")
"""transformers' model types whose config.json describes one of our ViTs."""


def described(json: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of config.json that describes the ViT; in a larger model it is nested."""
    if "model_type" not in json or json["model_type"] in KNOWN:
        return json
    inner = [part for part in json.values() if isinstance(part, dict) and part.get("model_type") in KNOWN]
    return inner[0] if len(inner) == 1 else json


def refuse(shapes: Shapes) -> None:
    """Raise UserError for an unsupported kind of ViT, with the feature that it has or lacks."""
    has = next((f"with {what}" for key, what in VARIANTS if key in shapes), None)
    if "reg_token" in shapes and not any(key in shapes for key in LAYER_SCALES):
        has = has or "with registers and no layer scales (timm's reg1 and reg4 ViTs)"
    if "blocks.0.gamma_1" in shapes and ("blocks.0.attn.qkv.bias" in shapes or "pos_embed" in shapes):
        has = has or "with other rotary positions than DINOv3's (timm's EVA and RoPE ViTs)"
    if not any(key in shapes for key in TOKENS):
        has = has or "without a class token (SigLIP, I-JEPA, timm's class_token=False)"
    if not any(key in shapes for key in (*TABLES, *ROTARY)):
        has = has or "without a position table"
    if has:
        raise UserError(f"such models are not supported: a ViT {has}")
