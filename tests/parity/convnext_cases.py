"""Tiny ConvNeXts of every layout: transformers' and timm's own classes, and a module with Meta's names."""

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from tests.parity.drawing import images
from tests.parity.family_case import FamilyCase
from tests.torchvision_stub import import_torchvision

DEPTHS, WIDTHS, CLASSES = (2, 1, 2, 1), (8, 12, 16, 24), 5
SIZES = {"native": (64, 64), "wide": (32, 96), "odd": (77, 50)}
"""Sides of the images; "odd" has rows and columns over at the stem and at later stages."""
INPUTS = {name: {"images": images(*size)} for name, size in SIZES.items()}


class Norm(nn.Module):
    """Layer norm over the channels of (B, C, H, W)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        x = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class Block(nn.Module):
    """A residual block with the names of Meta's checkpoints."""

    def __init__(self, width: int):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.norm(self.dwconv(x).movedim(1, -1))
        return x + (self.pwconv2(F.gelu(self.pwconv1(branch))) * self.gamma).movedim(-1, 1)


class MetaConvNeXt(nn.Module):
    """Meta's ConvNeXt; its last norm is registered under two names, as in facebookresearch/dinov3."""

    def __init__(self, num_classes: int = 0, channels: int = 3, twice: bool = True):
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(channels, WIDTHS[0], 4, stride=4), Norm(WIDTHS[0]))
        later = [nn.Sequential(Norm(a), nn.Conv2d(a, b, 2, stride=2)) for a, b in itertools.pairwise(WIDTHS)]
        self.downsample_layers = nn.ModuleList([stem, *later])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(depth))) for depth, width in zip(DEPTHS, WIDTHS, strict=True)
        )
        self.norm = nn.LayerNorm(WIDTHS[-1], eps=1e-6)
        if twice:
            self.norms = nn.ModuleList([nn.Identity(), nn.Identity(), nn.Identity(), self.norm])
        self.head = nn.Linear(WIDTHS[-1], num_classes) if num_classes else nn.Identity()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.norm(x.mean(dim=(2, 3))), self.norm(x.movedim(1, -1))


def _seen(model: nn.Module, stem: str, stages: str, run: Callable[[], dict]) -> dict[str, torch.Tensor]:
    """Channels last: after the stem, block 0 and each stage, by hooks, and what `run` gives."""
    found, hooks = {}, []

    def watch(name: str, module: nn.Module) -> None:
        hooks.append(module.register_forward_hook(lambda _, args, out: found.update({name: out.movedim(1, -1)})))

    watch("stem", model.get_submodule(stem))
    modules = list(model.get_submodule(stages))
    blocks = getattr(modules[0], "layers", getattr(modules[0], "blocks", modules[0]))
    watch("block 0", blocks[0])
    for s, module in enumerate(modules):
        watch(f"stage {s}", module)
    extra = run()
    for hook in hooks:
        hook.remove()
    return {name: found[name] for name in ("stem", "block 0", *(f"stage {s}" for s in range(len(modules))))} | extra


def _meta(model: nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    def run() -> dict[str, torch.Tensor]:
        pooled, patches = model(given["images"])
        logits = {} if isinstance(model.head, nn.Identity) else {"logits": model.head(pooled)}
        return {"pooled": pooled, "patches": patches, **logits}

    return _seen(model, "downsample_layers.0", "stages", run)


def _hf(model: nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    def run() -> dict[str, torch.Tensor]:
        out = model(given["images"])
        b, _, height, wide = given["images"].shape
        patches = out.last_hidden_state[:, 1:].reshape(b, height // 32, wide // 32, WIDTHS[-1])
        return {"pooled": out.pooler_output, "patches": patches}

    return _seen(model, "model.stages.0.downsample_layers.1", "model.stages", run)


def _timm(model: nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    def run() -> dict[str, torch.Tensor]:
        features = model.forward_features(given["images"])
        pooled = model.forward_head(features, pre_logits=True)
        logits = {"logits": model.head.fc(pooled)} if model.num_classes else {}
        return {"pooled": pooled, "patches": model.head.norm(features).movedim(1, -1), **logits}

    return _seen(model, "stem", "stages", run)


def ours(model, given) -> dict:
    """Our values at the same places."""
    backbone, images = model.backbone, given["images"]
    out, stem = model(images), model.backbone.stem(images)
    stages = {f"stage {s}": x for s, x in enumerate(out.stages)}
    found = {"stem": stem, "block 0": backbone.stages[0][0](stem, None), **stages}
    found |= {"pooled": out.pooled, "patches": out.patches}
    return found if out.logits is None else found | {"logits": out.logits}


def build_hf() -> nn.Module:
    """transformers' class."""
    import transformers as hf

    return hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(depths=list(DEPTHS), hidden_sizes=list(WIDTHS)))


def build_timm(num_classes: int = 0) -> nn.Module:
    """timm's class."""
    import_torchvision()
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(depths=DEPTHS, dims=WIDTHS, num_classes=num_classes)


def save_hf(model: nn.Module, folder: Path) -> Path:
    """As transformers saves it, under the published keys."""
    model.save_pretrained(folder)
    return folder


def save_timm(model: nn.Module, folder: Path) -> Path:
    """A folder as timm's hub repositories have it."""
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "convnext_tiny", "global_pool": "avg"}))
    return folder


def save_meta(model: nn.Module, folder: Path) -> Path:
    """A bare state dict by torch.save."""
    torch.save(model.state_dict(), folder / "convnext.pth")
    return folder / "convnext.pth"


def _case(layout: str, build, save, theirs, thorough: bool = True) -> FamilyCase:
    return FamilyCase("convnext", layout, build, save, INPUTS, theirs, ours, thorough=thorough)


CONVNEXT_CASES = {
    "convnext meta": _case("meta", MetaConvNeXt, save_meta, _meta),
    "convnext meta classes": _case("meta", lambda: MetaConvNeXt(CLASSES, twice=False), save_meta, _meta),
    "convnext hf": _case("hf", build_hf, save_hf, _hf),
    "convnext timm": _case("timm", build_timm, save_timm, _timm, thorough=False),
    "convnext timm classes": _case("timm", lambda: build_timm(CLASSES), save_timm, _timm),
}
"""name -> case."""
