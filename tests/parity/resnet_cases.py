"""Tiny ResNets of every layout, of basic blocks and bottlenecks: torchvision's, timm's and transformers' classes."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tests.parity.drawing import images
from tests.parity.family_case import FamilyCase
from tests.torchvision_stub import import_torchvision

PLANES, CLASSES = (8, 12, 16, 20), 5
INPUTS = {
    name: {"images": images(*size)} for name, size in {"native": (64, 64), "wide": (32, 80), "odd": (53, 70)}.items()
}


@torch.no_grad()
def prepare(model: nn.Module) -> None:
    """Draws the running statistics around those of the images, so that no ReLU is dead, and a number of batches."""
    generator = torch.Generator().manual_seed(2)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.bias.uniform_(0.2, 0.8, generator=generator)
        norm.momentum = 1.0
    model.train()(INPUTS["native"]["images"])
    for norm in norms:
        norm.running_mean += (
            torch.empty_like(norm.bias).normal_(0.0, 0.3, generator=generator) * norm.running_var.sqrt()
        )
        norm.running_var *= torch.empty_like(norm.bias).uniform_(0.5, 1.5, generator=generator)
        norm.num_batches_tracked.fill_(12_345)
        norm.momentum = 0.1
    model.eval()


def build_torchvision(bottleneck: bool, num_classes: int = 0, width_per_group: int = 64) -> nn.Module:
    """torchvision's class with narrower stages."""
    import_torchvision()
    from torchvision.models import resnet

    class Narrow(resnet.ResNet):
        def _make_layer(self, block, planes, *args, **kwargs):
            return super()._make_layer(block, PLANES[(64, 128, 256, 512).index(planes)], *args, **kwargs)

    block = resnet.Bottleneck if bottleneck else resnet.BasicBlock
    model = Narrow(block, [1, 2, 1, 1], width_per_group=width_per_group)
    out = PLANES[-1] * block.expansion
    model.fc = nn.Linear(out, num_classes) if num_classes else nn.Identity()
    return model


def build_timm(bottleneck: bool, num_classes: int = 0) -> nn.Module:
    """timm's class."""
    import_torchvision()
    from timm.models import resnet

    block = resnet.Bottleneck if bottleneck else resnet.BasicBlock
    return resnet.ResNet(block, (1, 2, 1, 1), num_classes=num_classes, channels=PLANES)


def build_hf(bottleneck: bool, num_classes: int = 0) -> nn.Module:
    """transformers' class, with a classification head if there are classes."""
    import transformers as hf

    widths = [planes * (4 if bottleneck else 1) for planes in PLANES]
    kind = "bottleneck" if bottleneck else "basic"
    config = hf.ResNetConfig(hidden_sizes=widths, depths=[1, 2, 1, 1], layer_type=kind, num_labels=num_classes or 2)
    return (hf.ResNetForImageClassification if num_classes else hf.ResNetModel)(config)


def _theirs(model: nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchvision's and timm's forward pass, step by step as their code has it."""
    x = model.maxpool((model.act1 if hasattr(model, "act1") else model.relu)(model.bn1(model.conv1(given["images"]))))
    found = {"stem": x, "block 0": model.layer1[0](x)}
    for s in range(4):
        found[f"stage {s}"] = x = getattr(model, f"layer{s + 1}")(x)
    pooled = x.mean(dim=(2, 3))
    found = {name: x.movedim(1, -1) for name, x in found.items()} | {"pooled": pooled}
    return found if isinstance(model.fc, nn.Identity) else found | {"logits": model(given["images"])}


def _hf(model: nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    body = getattr(model, "resnet", model)
    out = body(given["images"], output_hidden_states=True)
    stem, *stages = out.hidden_states
    maps = {"stem": stem, "block 0": body.encoder.stages[0].layers[0](stem.clone())}
    maps |= {f"stage {s}": x for s, x in enumerate(stages)}
    found = {name: x.movedim(1, -1) for name, x in maps.items()} | {"pooled": out.pooler_output.flatten(1)}
    return found | ({"logits": model(given["images"]).logits} if hasattr(model, "classifier") else {})


def ours(model, given) -> dict:
    """Our values at the same places."""
    out, stem = model(given["images"]), model.backbone.stem(given["images"])
    found = {"stem": stem, "block 0": model.backbone.layer1[0](stem, None)}
    found |= {f"stage {s}": x for s, x in enumerate(out.stages)} | {"pooled": out.pooled}
    return found if out.logits is None else found | {"logits": out.logits}


def save_pth(model: nn.Module, folder: Path) -> Path:
    """A bare state dict by torch.save."""
    torch.save(model.state_dict(), folder / "resnet.pth")
    return folder / "resnet.pth"


def save_old(model: nn.Module, folder: Path) -> Path:
    """A state dict from before torch counted batches, as torchvision's first files."""
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, folder / "resnet.pth")
    return folder / "resnet.pth"


def save_dino(model: nn.Module, folder: Path) -> Path:
    """A full checkpoint of DINO: the teacher's backbone beside another student."""
    teacher = {f"backbone.{key}": tensor for key, tensor in model.state_dict().items()}
    student = {f"module.{key}": tensor + 1 for key, tensor in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 800}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def save_timm(model: nn.Module, folder: Path) -> Path:
    """A folder as timm's hub repositories have it."""
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet50", "global_pool": "avg"}))
    return folder


def save_hf(model: nn.Module, folder: Path) -> Path:
    """As transformers saves it."""
    model.save_pretrained(folder)
    return folder


def _case(layout: str, build, save, theirs=_theirs, family: str = "resnet", **fields) -> FamilyCase:
    return FamilyCase(family, layout, build, save, INPUTS, theirs, ours, prepare=prepare, **fields)


RESNET_CASES = {
    "resnet torchvision basic": _case("torchvision", lambda: build_torchvision(False, CLASSES), save_pth),
    "resnet torchvision": _case("torchvision", lambda: build_torchvision(True, CLASSES), save_pth),
    "resnet torchvision old": _case("torchvision", lambda: build_torchvision(False), save_old, thorough=False),
    "resnet timm basic": _case("timm", lambda: build_timm(False), save_timm, thorough=False),
    "resnet timm": _case("timm", lambda: build_timm(True, CLASSES), save_timm),
    "resnet hf basic": _case("hf", lambda: build_hf(False, CLASSES), save_hf, _hf),
    "resnet hf": _case("hf", lambda: build_hf(True), save_hf, _hf),
    "resnet dino": _case(
        "meta", lambda: build_torchvision(True), save_dino, family="dino_resnet", overrules={"layout": "meta"}
    ),
}
"""name -> case."""
