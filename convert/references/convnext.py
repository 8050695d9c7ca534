"""ConvNeXt's original forward pass: transformers' class, or a state dict of Meta's or timm's, key by key in torch.

Sources: facebookresearch/dinov3 dinov3/models/convnext.py; huggingface/pytorch-image-models timm/models/convnext.py.
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

_WORDS = {  # layout -> the stem, the later downsampling, a block; its convolution, norm, linear layers; the last norm
    "meta": ("downsample_layers.0", "downsample_layers.{s}", "stages.{s}.{i}", "dwconv norm pwconv1 pwconv2", "norm"),
    "timm": ("stem", "stages.{s}.downsample", "stages.{s}.blocks.{i}", "conv_dw norm mlp.fc1 mlp.fc2", "head.norm"),
}


def inputs(spec: ModelSpec, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return only the pixels (1, H, W, C)."""
    return {"pixels": pixels}


def ours(model: Any, given: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return our values after the stem, after each stage and at the output."""
    out = model.backbone(given["pixels"])
    stages = {f"stage {s}": x for s, x in enumerate(out.stages)}
    return {"stem": model.backbone.stem(given["pixels"]), **stages, "pooled": out.pooled, "patches": out.patches}


def original(
    found: Recognised, source: Source, folder: Path, given: dict[str, np.ndarray]
) -> tuple[str, dict[str, np.ndarray]]:
    """Return a description of the original, and its values at the same places."""
    pixels = torch.from_numpy(np.ascontiguousarray(given["pixels"].transpose(0, 3, 1, 2)))
    with torch.no_grad():
        if found.layout == "hf":
            return "transformers", _transformers(folder, pixels)
        return f"the {found.layout} state dict in torch", _run(state_dict(found, source), found, pixels)


def _last(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def _transformers(folder: Path, pixels: torch.Tensor) -> dict[str, np.ndarray]:
    model = from_folder(folder)
    seen: dict[str, np.ndarray] = {}
    stages = model.get_submodule("model.stages")
    places = {"stem": stages[0].downsample_layers[-1]} | {f"stage {s}": stage for s, stage in enumerate(stages)}
    for name, module in places.items():
        module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: _last(out)}))
    out = model(pixels)
    b, width, h, w = out.last_hidden_state.shape[0], out.last_hidden_state.shape[-1], *_size(seen)
    patches = out.last_hidden_state[:, 1:].reshape(b, h, w, width)
    return seen | {"pooled": out.pooler_output.numpy(), "patches": patches.numpy()}


def _size(seen: dict[str, np.ndarray]) -> tuple[int, int]:
    last = list(seen.values())[-1]
    return last.shape[1], last.shape[2]


def _run(state: dict[str, torch.Tensor], found: Recognised, x: torch.Tensor) -> dict[str, np.ndarray]:
    """Run a state dict on images (B, C, H, W)."""
    stem, down, block, words, norm = _WORDS[found.layout]
    dwconv, norm1, pwconv1, pwconv2 = words.split()
    eps = found.spec.config.norm_eps

    def layer_norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def norm2d(x: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(x.permute(0, 2, 3, 1), name).permute(0, 3, 1, 2)

    def conv(x: torch.Tensor, name: str, **how: int) -> torch.Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **how)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = norm2d(conv(x, f"{stem}.0", stride=4), f"{stem}.1")
    seen = {"stem": _last(x)}
    for s, depth in enumerate(found.spec.config.depths):
        if s:
            name = down.format(s=s)
            x = conv(norm2d(x, f"{name}.0"), f"{name}.1", stride=2)
        for i in range(depth):
            name = block.format(s=s, i=i)
            branch = conv(x, f"{name}.{dwconv}", padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
            branch = linear(layer_norm(branch, f"{name}.{norm1}"), f"{name}.{pwconv1}")
            branch = linear(F.gelu(branch), f"{name}.{pwconv2}") * state[f"{name}.gamma"]
            x = x + branch.permute(0, 3, 1, 2)
        seen[f"stage {s}"] = _last(x)
    pooled = layer_norm(x.mean(dim=(2, 3)), norm)
    return seen | {"pooled": pooled.numpy(), "patches": _last(norm2d(x, norm))}
