"""ResNet's original forward pass: transformers' class, or a state dict with torchvision's names, key by key in torch.

Source: pytorch/vision torchvision/models/resnet.py.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from convert.readers import Source
from convert.recognise import Recognised
from convert.references import from_folder, state_dict
from jaxdino.models.spec import ModelSpec


def inputs(spec: ModelSpec, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return only the pixels (1, H, W, C)."""
    return {"pixels": pixels}


def ours(model: Any, given: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return our values after the stem, after each stage and at the output."""
    out = model.backbone(given["pixels"])
    stages = {f"stage {s}": x for s, x in enumerate(out.stages)}
    return {"stem": model.backbone.stem(given["pixels"]), **stages, "pooled": out.pooled}


def original(
    found: Recognised, source: Source, folder: Path, given: dict[str, np.ndarray]
) -> tuple[str, dict[str, np.ndarray]]:
    """Return a description of the original, and its values at the same places."""
    pixels = torch.from_numpy(np.ascontiguousarray(given["pixels"].transpose(0, 3, 1, 2)))
    with torch.no_grad():
        if found.layout == "hf":
            model = from_folder(folder, "AutoModelForImageClassification" if found.num_classes else "AutoModel")
            out = getattr(model, "resnet", model)(pixels, output_hidden_states=True)
            maps, pooled, what = out.hidden_states, out.pooler_output.flatten(1), "transformers"
        else:
            maps = _run(state_dict(found, source), found, pixels)
            pooled, what = maps[-1].mean(dim=(2, 3)), f"the {found.layout} state dict in torch"
    names = ("stem", *(f"stage {s}" for s in range(len(maps) - 1)))
    seen = {name: x.permute(0, 2, 3, 1).contiguous().numpy() for name, x in zip(names, maps, strict=True)}
    return what, seen | {"pooled": pooled.numpy()}


def _run(state: dict[str, torch.Tensor], found: Recognised, x: torch.Tensor) -> list[torch.Tensor]:
    """Run a state dict on images (B, C, H, W); return the maps after the stem and each stage."""

    def step(x: torch.Tensor, conv: str, norm: str, stride: int = 1) -> torch.Tensor:
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{norm}.{name}"] for name in names), eps=1e-5)

    x = F.max_pool2d(F.relu(step(x, "conv1", "bn1", 2)), 3, 2, 1)
    maps = [x]
    cfg = found.spec.config
    for s, i in cfg.blocks:
        name, stride = f"layer{s}.{i}", 2 if s > 1 and i == 0 else 1
        strides = (1, stride, 1) if cfg.bottleneck else (stride, 1)
        branch, shortcut = x, x
        for n, by in enumerate(strides, 1):
            branch = F.relu(branch) if n > 1 else branch
            branch = step(branch, f"{name}.conv{n}", f"{name}.bn{n}", by)
        if f"{name}.downsample.0.weight" in state:
            shortcut = step(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        x = F.relu(branch + shortcut)
        if i == cfg.depths[s - 1] - 1:
            maps.append(x)
    return maps
