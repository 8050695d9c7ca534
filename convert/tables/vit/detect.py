"""Detect which ViT a checkpoint holds, from its keys, its shapes and config.json, if present."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from convert.family import Hints, Shapes, Told
from convert.tables.vit.images import LARGE, constants, pixels, trained_on, trained_size
from convert.tables.vit.num_heads import Shape, num_heads
from convert.tables.vit.pos_grid import pos_grid
from convert.tables.vit.variants import described, refuse
from convert.timm_args import model_args
from jaxdino.core.errors import UserError
from jaxdino.models.published.vit import DINOV3
from jaxdino.models.registry import get
from jaxdino.models.vit import ViTConfig

ANCHORS = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.weight",
)
"""Key endings; each checkpoint of the layouts has exactly one such key."""
HF_EPS = 1e-12
"""Default epsilon of the norms in transformers' ViT."""


def detect(shapes: Shapes, hints: Hints) -> Told:
    """Detect family, layout and shape of a ViT.

    Raises:
      UserError: if the checkpoint is not the given model or layout, or is an unknown ViT.
    """
    refuse(shapes)
    hints = hints._replace(json=described(hints.json))
    json = hints.json if "model_type" in hints.json else {}
    family, layout = _style(shapes)
    if (family, layout) == ("dino", "meta") and "architecture" in hints.json:  # timm's own folder of these keys
        layout = "timm"
    family, layout = _overruled(family, layout, hints.model, hints.layout)
    config = _config(shapes, family, layout, json, model_args(hints))
    own = Shape(family, config.width, config.depth, config.mlp_dim)
    heads, assumed = num_heads(own, shapes, json, hints)
    config = dataclasses.replace(config, num_heads=heads)
    if config.positions == "learned":
        rows = _first(shapes, "pos_embed", "embeddings.position_embeddings")[1]
        grid, has_cls, doubt = pos_grid(rows, config.patch_size, hints)
        config, assumed = dataclasses.replace(config, pos_grid=grid, pos_cls=has_cls), (*assumed, *doubt)
    _check_activation(config, family, json)
    assumed += constants(own, layout, config, shapes, hints.json)
    size, how = trained_size(own, config, json), trained_on(own, shapes, hints)
    if own.family == "vit" and size and min(size[0]) >= LARGE:
        how = dataclasses.replace(how or get("vit_base_patch16_224").preprocess, crop_pct=1.0)
    return Told(family, layout, config, how, assumed, size, pixels(own, layout, config, shapes, hints))


def _style(keys) -> tuple[str, str]:
    """Return (family, layout) from keys that only one layout has."""
    if "embeddings.patch_embeddings.weight" in keys:
        return "dinov3", "hf"
    if "encoder.layer.0.layer_scale1.lambda1" in keys:
        return "dinov2", "hf"
    if "embeddings.patch_embeddings.projection.weight" in keys:
        return ("vit" if "classifier.weight" in keys else "dino"), "hf"
    if "blocks.0.gamma_1" in keys:
        return "dinov3", "timm"
    if "rope_embed.periods" in keys or "storage_tokens" in keys:
        return "dinov3", "meta"
    if "blocks.0.ls1.gamma" in keys:
        meta = "mask_token" in keys or "register_tokens" in keys or "blocks.0.mlp.w12.weight" in keys
        return "dinov2", "meta" if meta else "timm"
    has_head = "head.weight" in keys or any(key.startswith("decoder_") for key in keys)
    return ("vit", "timm") if has_head else ("dino", "meta")


def _first(shapes: Shapes, *keys: str) -> tuple[int, ...] | None:
    return next((shapes[key] for key in keys if key in shapes), None)


def _depth(shapes: Shapes) -> int:
    numbers = [int(m[1]) for key in shapes if (m := re.match(r"(?:blocks|(?:encoder\.)?layer)\.(\d+)\.", key))]
    if not numbers:
        raise UserError("the checkpoint holds no transformer blocks")
    return max(numbers) + 1


def _feed_forward(shapes: Shapes, width: int) -> tuple[int, bool]:
    """Return (hidden width, whether it is a SwiGLU) from the first block."""
    gated = {
        "blocks.0.mlp.w12.weight": 2,
        "blocks.0.mlp.w1.weight": 1,
        "blocks.0.mlp.fc1_g.weight": 1,
        "encoder.layer.0.mlp.weights_in.weight": 2,
        "layer.0.mlp.gate_proj.weight": 1,
    }
    for key, halves in gated.items():
        if key in shapes:
            return shapes[key][0] // halves, True
    plain = (
        "blocks.0.mlp.fc1.weight",
        "encoder.layer.0.mlp.fc1.weight",
        "encoder.layer.0.intermediate.dense.weight",
        "layer.0.mlp.up_proj.weight",
    )
    hidden = _first(shapes, *plain)
    out = _first(shapes, "blocks.0.mlp.fc2.weight")
    if hidden is None:
        raise UserError("the first block has no feed-forward layer that any layout names")
    packed = out is not None and 2 * out[1] == hidden[0]  # timm packs both halves of a SwiGLU in fc1
    return (out[1], True) if packed else (hidden[0], False)


def _config(shapes: Shapes, family: str, layout: str, json: Mapping[str, Any], timm: Mapping[str, Any]) -> ViTConfig:
    """Read the configuration, except heads and position grid; `timm` are the arguments of timm's class."""
    patch_shape = _first(shapes, *ANCHORS)
    if len(patch_shape) != 4 or patch_shape[2] != patch_shape[3]:
        raise UserError(f"a patch embedding of shape {patch_shape} is not a convolution with square patches")
    width, channels, patch, _ = patch_shape
    mlp_dim, swiglu = _feed_forward(shapes, width)
    registers = _first(shapes, "register_tokens", "storage_tokens", "reg_token", "embeddings.register_tokens")
    biases = ("blocks.0.attn.qkv.bias", "blocks.0.attn.q_bias", "layer.0.attention.q_proj.bias")
    fields: dict[str, Any] = {
        "patch_size": patch,
        "width": width,
        "depth": _depth(shapes),
        "mlp_dim": mlp_dim,
        "swiglu": swiglu,
        "in_channels": channels,
        "num_registers": registers[1] if registers else 0,
        "qkv_bias": _first(shapes, *biases, "encoder.layer.0.attention.attention.query.bias") is not None,
        "layer_scale": family in ("dinov2", "dinov3"),
        "local_cls_norm": "local_cls_norm.weight" in shapes,
        "pooler": "pooler.dense.weight" in shapes,
        "norm_eps": json.get("layer_norm_eps", HF_EPS if _plain_hf(family, layout) else norm_eps(family)),
    }
    token = _first(shapes, "mask_token", "embeddings.mask_token")
    fields["mask_token"] = (
        token is not None and token[-1] == width and (family in ("dinov2", "dinov3") or layout == "hf")
    )
    if family == "dinov3":
        fields["positions"] = "rope"
        base = timm.get("rope_temperature", DINOV3.get("rope_base", 100.0))
        fields["rope_base"] = json.get("rope_theta", base)
        fields["mask_k_bias"] = "layer.0.attention.k_proj.bias" not in shapes
    else:
        fields.update(resampling(family, layout, registers is not None and (layout == "hf" or registers[1] > 0)))
    return ViTConfig(**fields)


def _check_activation(config: ViTConfig, family: str, json: Mapping[str, Any]) -> None:
    """Refuse a Hugging Face folder whose config.json sets another activation than the family's."""
    expected = "silu" if family == "dinov3" and config.swiglu else "gelu"
    if json.get("hidden_act", expected) != expected:
        raise UserError(f"config.json says hidden_act={json['hidden_act']!r}; only {expected!r} is known for {family}")


def _plain_hf(family: str, layout: str) -> bool:
    return layout == "hf" and family in ("dino", "vit")


def norm_eps(family: str) -> float:
    """Return the fixed epsilon of the norms in Meta's and timm's code."""
    return 1e-5 if family == "dinov3" else 1e-6


def resampling(family: str, layout: str, registers: bool) -> dict[str, Any]:
    """Return how the layout's own code resamples learned positions; each layout is reproduced."""
    if layout == "timm":
        return {"pos_offset": 0.0, "pos_antialias": True}
    if layout == "hf":
        return {"pos_offset": 0.0, "pos_antialias": family == "dinov2" and registers}
    plain = family in ("dino", "dinov2") and not registers
    return {"pos_offset": 0.1 if plain else 0.0, "pos_antialias": not plain}


def _overruled(family: str, found: str, model: str | None, layout: str | None) -> tuple[str, str]:
    """Return (family, layout), replaced by the user's model and layout if these have the same keys."""
    if model is not None:
        named = get(model).family
        if named != family and not {named, family} <= {"vit", "dino"}:
            raise UserError(f"the checkpoint is of the {family} family; {model} is of {named}")
        if {named, family} <= {"vit", "dino"}:  # the same keys: only the name tells them apart
            family, found = named, found if found == "hf" else {"vit": "timm", "dino": "meta"}[named]
    if layout in (None, found):
        return family, found
    if {layout, found} == {"meta", "timm"} and family in ("vit", "dino"):  # the same keys again
        return family if model else {"meta": "dino", "timm": "vit"}[layout], layout
    raise UserError(f"the checkpoint's keys are of the layout {found!r}, not {layout!r}")
