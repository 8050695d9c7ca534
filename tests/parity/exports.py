"""What test_export_opens.py exports: shapes that nobody published, and how each library opens what was written."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import nn

from convert.references.vit import StateDictViT
from convert.store import Card
from jaxdino.core.params import split
from jaxdino.models import registry
from jaxdino.models.spec import ModelSpec
from tests.parity import meta_modules
from tests.parity.cases import CLASSES, GRID, HEADS, PATCH, WIDTH
from tests.parity.convnext_cases import DEPTHS, WIDTHS, MetaConvNeXt
from tests.parity.resnet_cases import PLANES, build_torchvision
from tests.torchvision_stub import import_torchvision

DEPTH = 2
TINY = dict(patch_size=PATCH, width=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_dim=2 * WIDTH)
TABLE = dict(pos_grid=(GRID, GRID))
CONVNEXT = dict(depths=DEPTHS, widths=WIDTHS)
BOTTLENECKS = dict(depths=(1, 2, 1, 1), widths=tuple(4 * n for n in PLANES), bottleneck=True)

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {  # name -> (a published model, what differs)
    "vit": ("vit_tiny_patch16_224", {**TINY, **TABLE}),
    "vit other sizes": ("vit_tiny_patch16_224", {**TINY, **TABLE, "patch_size": 8, "num_heads": 8, "mlp_dim": 97}),
    "vit wide": ("vit_tiny_patch16_224", {**TINY, "pos_grid": (2, 8)}),
    "vit no bias, two channels": ("vit_tiny_patch16_224", {**TINY, **TABLE, "qkv_bias": False, "in_channels": 2}),
    "vit scaled": ("vit_tiny_patch16_224", {**TINY, **TABLE, "layer_scale": True}),
    "dino": ("dino_vits16", {**TINY, **TABLE}),
    "dinov2": ("dinov2_vits14", {**TINY, **TABLE}),
    "dinov2 swiglu": ("dinov2_vits14", {**TINY, **TABLE, "swiglu": True, "mlp_dim": 88}),
    "dinov2 registers": ("dinov2_vits14_reg", {**TINY, **TABLE, "num_registers": 3}),
    "dinov2 unscaled": ("dinov2_vits14", {**TINY, **TABLE, "layer_scale": False, "in_channels": 5}),
    "dinov3": ("dinov3_vits16", TINY),
    "dinov3 swiglu": ("dinov3_vits16", {**TINY, "swiglu": True, "mlp_dim": 88, "qkv_bias": False}),
    "dinov3 no registers": ("dinov3_vits16", {**TINY, "num_registers": 0, "rope_base": 50.0, "in_channels": 1}),
    "dinov3 unscaled": ("dinov3_vits16", {**TINY, "layer_scale": False, "num_heads": 2, "patch_size": 8}),
    "convnext": ("dinov3_convnext_tiny", CONVNEXT),
    "convnext two channels": ("dinov3_convnext_tiny", {**CONVNEXT, "in_channels": 2}),
    "convnext other depths": ("dinov3_convnext_tiny", {**CONVNEXT, "norm_eps": 1e-5, "depths": (1, 1, 1, 2)}),
    "resnet": ("resnet18", {"depths": (1, 2, 1, 1), "widths": PLANES}),
    "resnet bottlenecks": ("resnet50", BOTTLENECKS),
    "resnet four channels": ("resnet50", {**BOTTLENECKS, "in_channels": 4}),
    "dino_resnet": ("dino_resnet50", BOTTLENECKS),
}


def spec_of(name: str) -> ModelSpec:
    """The shape as a spec, its images as large as its table of positions."""
    base, fields = SHAPES[name]
    spec = registry.get(base)
    config = dataclasses.replace(spec.config, **fields)
    grid = (2, 8) if "wide" in name else (GRID, GRID)
    side = getattr(config, "patch_size", 16)
    how = dataclasses.replace(spec.preprocess, size=tuple(n * side for n in grid), mean=(0.5,) * 3, std=(0.5,) * 3)
    return dataclasses.replace(spec, name=f"{spec.family}_custom", hub=None, config=config, preprocess=how)


def drawn(spec: ModelSpec, pool: str | None) -> tuple[Card, dict[str, np.ndarray]]:
    """A card, with a head if there is a pool, and parameters each of which matters."""
    classes = CLASSES if pool else 0
    pool, rng = pool or spec.pool, np.random.default_rng(0)
    _, flat = split(spec.build(classes, pool=pool))
    flat = {path: _draw(path, np.asarray(array), rng) for path, array in flat.items()}
    names = tuple("abcde") if classes else ()
    return Card(spec, spec.linear(classes, pool), names), flat


def _draw(path: str, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    leaf = path.rpartition(".")[2]
    if leaf in ("periods", "num_batches_tracked"):
        return array
    if leaf in ("scale", "gamma", "var"):
        return rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
    spread = np.prod(array.shape[:-1]) ** -0.5 if leaf == "kernel" else 0.3
    drawn = rng.normal(0, spread, array.shape).astype(np.float32)
    if path.endswith("attn.qkv.bias"):  # DINOv3's published layouts have no bias of the keys
        drawn[array.shape[0] // 3 : 2 * array.shape[0] // 3] = 0
    return drawn


# opened


@torch.no_grad()
def timm(out: Path, card: Card, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """By `timm.create_model`, as anybody would."""
    import_torchvision()
    import timm

    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    found = _sorted(card, model.forward_features(pixels), getattr(model, "num_prefix_tokens", None))
    if card.spec.family == "convnext":
        found = _normed(found, model.head.norm)
    return found | ({"logits": model(pixels)} if model.num_classes else {})


@torch.no_grad()
def transformers(out: Path, card: Card, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """By AutoModel and, where config.json names such a class, AutoModelForImageClassification."""
    classifies = "ForImageClassification" in hf.AutoConfig.from_pretrained(out).architectures[0]
    auto = hf.AutoModelForImageClassification if classifies else hf.AutoModel
    model, info = auto.from_pretrained(out, output_loading_info=True)
    missing = {key for key in info["missing_keys"] if not key.startswith("pooler.")}  # a ViTModel's: export says so
    assert not missing and not info["unexpected_keys"] and not info["mismatched_keys"], info
    body = getattr(model.eval(), model.base_model_prefix) if classifies else model
    out = body(pixels)
    prefix = 1 + getattr(card.spec.config, "num_registers", 0)
    if card.spec.family == "convnext":
        h, w = (side // 32 for side in pixels.shape[2:])
        patches = out.last_hidden_state[:, 1:].unflatten(1, (h, w))
        return {"cls": out.pooler_output, "patches": patches}
    found = _sorted(card, out.last_hidden_state, prefix)
    return found | ({"logits": model(pixels).logits} if classifies else {})


@torch.no_grad()
def meta(out: Path, card: Card, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """By torch.load into Meta's and torchvision's modules, strictly; of other shapes the state dict runs as it is."""
    (file,) = (path for path in out.glob("*.pth") if "_head" not in path.name)
    state, c = torch.load(file), card.spec.config
    if card.spec.family == "convnext":
        return _convnext(state, card, pixels)
    if "resnet" in card.spec.family:
        return _resnet(state, card, pixels)
    if SHAPES_OF_META.get(_shape(card)) is None:
        tokens = torch.from_numpy(StateDictViT(state, c)(pixels.numpy())[-1])
        return _sorted(card, tokens, 1 + c.num_registers)
    model = meta_modules.MetaViT(**SHAPES_OF_META[_shape(card)], depth=DEPTH, head="head.weight" in state).eval()
    model.load_state_dict(state)
    seen: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda _, args, out: seen.append(out))
    logits = model(pixels)
    return _sorted(card, seen[0], 1 + c.num_registers) | ({"logits": logits} if "head.weight" in state else {})


SHAPES_OF_META = {
    ("dino", False, 3, 0): dict(scaled=False, masked=False),
    ("dinov2", False, 3, 0): {},
    ("dinov2", True, 3, 0): dict(feed_forward=meta_modules.Fused),
    ("dinov2", False, 3, 3): dict(registers=3),
    ("dinov3", False, 3, 4): dict(mask_k_bias=True, **meta_modules.DINOV3),
}
"""(family, SwiGLU, channels, registers) -> arguments of the tests' own module; of its one patch size."""


def _shape(card: Card) -> tuple:
    c = card.spec.config
    usual = (c.patch_size, c.num_heads) == (PATCH, HEADS)
    return (card.spec.family, c.swiglu, c.in_channels, c.num_registers) if usual else ()


def _convnext(state, card: Card, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    c = card.spec.config
    model = MetaConvNeXt(CLASSES if "head.weight" in state else 0, c.in_channels, c.norm_twice).eval()
    model.load_state_dict(state)
    cls, patches = model(pixels)
    return {"cls": cls, "patches": patches} | ({"logits": model.head(cls)} if "head.weight" in state else {})


def _resnet(state, card: Card, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    c, classes = card.spec.config, CLASSES if "fc.weight" in state else 0
    model = build_torchvision(c.bottleneck, classes).eval()
    model.conv1 = nn.Conv2d(c.in_channels, 64, 7, 2, 3, bias=False)
    model.load_state_dict(state)
    x = model.maxpool(model.relu(model.bn1(model.conv1(pixels))))
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
    return _sorted(card, x, None) | ({"logits": model(pixels)} if classes else {})


def _sorted(card: Card, out: torch.Tensor, prefix: int | None) -> dict[str, torch.Tensor]:
    """Tokens (B, N, D) or a map (B, C, H, W) as class token, or pooled map, and patches (B, h, w, D)."""
    if out.ndim == 4:
        return {"cls": out.mean(dim=(2, 3)), "patches": out.movedim(1, -1)}
    grid = tuple(n // card.spec.config.patch_size for n in card.spec.preprocess.size)
    return {"cls": out[:, 0], "patches": out[:, prefix:].unflatten(1, grid)}


def _normed(found: dict[str, torch.Tensor], norm: nn.Module) -> dict[str, torch.Tensor]:
    """timm's ConvNeXt norms what it pooled; patches are normed alike."""
    patches = norm(found["patches"].movedim(-1, 1)).movedim(1, -1)
    return {"cls": norm(found["cls"][:, :, None, None])[:, :, 0, 0], "patches": patches}


OPENERS = {"timm": timm, "hf": transformers, "meta": meta, "torchvision": meta}
