"""Tiny models of timm's classes, built with the arguments of its published architectures."""

import functools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from timm.layers import LayerNorm, SwiGLUPacked
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tests.parity.cases import CLASSES, DEPTH, GRID, HEADS, PATCH, WIDTH, Case

SHAPE = dict(
    img_size=GRID * PATCH, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, dynamic_img_size=True
)


def save_pth(model: nn.Module, folder: Path) -> Path:
    """A bare state dict by torch.save."""
    torch.save(model.state_dict(), folder / "timm.pth")
    return folder / "timm.pth"


def save_safetensors(model: nn.Module, folder: Path) -> Path:
    """A bare state dict in safetensors."""
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


def save_folder(model: nn.Module, folder: Path) -> Path:
    """A folder as timm's hub repositories have it: config.json tells what the head looks at."""
    save_safetensors(model, folder)
    (folder / "config.json").write_text(json.dumps({"architecture": None, "global_pool": model.global_pool}))
    return folder


def _run(model: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    tokens = model.forward_features(pixels)
    return {"logits": model.forward_head(tokens)} if model.num_classes else {}


def _case(model_class, save, registers: int = 0, **fields) -> Case:
    fields = {"num_classes": 0, "global_pool": "token", **SHAPE, **fields}
    return Case(
        build=lambda: model_class(**fields),
        save=save,
        blocks="blocks",
        norm="norm",
        run=_run,
        registers=registers,
        overrules={"num_heads": HEADS},
    )


DINOV2 = dict(init_values=1e-5, mlp_ratio=2)
DINOV3 = dict(
    init_values=1e-5,
    mlp_ratio=2,
    rope_type="dinov3",
    rope_temperature=100,
    rope_rotate_half=True,
    use_rot_pos_emb=True,
    use_abs_pos_emb=False,
    num_reg_tokens=4,
    use_fc_norm=False,
    norm_layer=functools.partial(LayerNorm, eps=1e-5),
)
PACKED = dict(mlp_ratio=2.75, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, init_values=1e-5)

TIMM_CASES = {
    "timm vit": _case(VisionTransformer, save_pth, num_classes=CLASSES, mlp_ratio=2),
    "timm vit mean": _case(
        VisionTransformer, save_folder, num_classes=CLASSES, mlp_ratio=2, global_pool="avg", fc_norm=False
    ),
    "timm dinov2": _case(VisionTransformer, save_safetensors, **DINOV2),
    "timm dinov2 swiglu": _case(VisionTransformer, save_pth, **PACKED),
    "timm dinov2 reg": _case(VisionTransformer, save_pth, 4, reg_tokens=4, no_embed_class=True, **DINOV2),
    "timm dinov3": _case(Eva, save_safetensors, 4, qkv_bias=False, **DINOV3),
    "timm dinov3 qkvb": _case(Eva, save_pth, 4, qkv_bias=True, **DINOV3),
    "timm dinov3 swiglu": _case(Eva, save_pth, 4, qkv_bias=False, swiglu_mlp=True, swiglu_align_to=8, **DINOV3),
}
"""name -> case; the architectures of `timm/models/{vision_transformer,eva}.py` at a tiny width and depth."""
