"""Tiny models of the transformers classes."""

import functools
from pathlib import Path

import torch
import transformers as hf
from torch import nn

from tests.parity.cases import CLASSES, DEPTH, GRID, HEADS, PATCH, WIDTH, Case

SHAPE = dict(
    hidden_size=WIDTH,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    patch_size=PATCH,
    image_size=GRID * PATCH,
    num_labels=CLASSES,
)


def save(model: nn.Module, folder: Path, **options) -> Path:
    """Writes the folder that `from_pretrained` reads."""
    model.save_pretrained(folder, **options)
    return folder


def _run(model: nn.Module, pixels: torch.Tensor, **options) -> dict[str, torch.Tensor]:
    out = model(pixels, **options)
    pairs = {"pooled": getattr(out, "pooler_output", None), "logits": getattr(out, "logits", None)}
    return {name: value for name, value in pairs.items() if value is not None}


def _case(model_class: str, config_class: str, base: str, registers: int = 0, **fields) -> Case:
    def build() -> nn.Module:
        return getattr(hf, model_class)(getattr(hf, config_class)(**SHAPE, **fields))

    if registers:
        fields["num_register_tokens"] = registers
    dinov3 = "DINOv3" in model_class
    run = functools.partial(_run, interpolate_pos_encoding=True) if model_class.startswith("ViT") else _run
    return Case(
        build=build,
        save=save,
        blocks="model.layer" if dinov3 else f"{base}{_layers(model_class)}",
        norm="norm" if dinov3 else f"{base}layernorm",
        run=run,
        registers=registers,
    )


def _layers(model_class: str) -> str:
    return "layers" if model_class.startswith("ViT") else "encoder.layer"


VIT = dict(intermediate_size=2 * WIDTH, layer_norm_eps=1e-12)
GATED = dict(mlp_ratio=4, use_swiglu_ffn=True)
DINOV3 = dict(registers=4, query_bias=True, key_bias=False, value_bias=True)

HF_CASES = {
    "hf dino": _case("ViTModel", "ViTConfig", "", **VIT),
    "hf vit head": _case("ViTForImageClassification", "ViTConfig", "vit.", **VIT),
    "hf dinov2": _case("Dinov2Model", "Dinov2Config", "", mlp_ratio=2),
    "hf dinov2 swiglu": _case("Dinov2Model", "Dinov2Config", "", **GATED),
    "hf dinov2 reg": _case("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", "", 4, mlp_ratio=2),
    "hf dinov2 reg swiglu": _case("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", "", 4, **GATED),
    "hf dinov2 head": _case("Dinov2ForImageClassification", "Dinov2Config", "dinov2.", mlp_ratio=2),
    "hf dinov2 reg head": _case(
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        "dinov2_with_registers.",
        4,
        mlp_ratio=2,
    ),
    "hf dinov3": _case("DINOv3ViTModel", "DINOv3ViTConfig", "", intermediate_size=2 * WIDTH, **DINOV3),
    "hf dinov3 gated": _case(
        "DINOv3ViTModel", "DINOv3ViTConfig", "", intermediate_size=96, use_gated_mlp=True, hidden_act="silu", **DINOV3
    ),
    "hf dinov3 no bias": _case(
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        "",
        registers=4,
        intermediate_size=96,
        use_gated_mlp=True,
        hidden_act="silu",
        query_bias=False,
        value_bias=False,
    ),
}
"""name -> case; every class whose checkpoints are read, with both kinds of feed-forward layer."""
