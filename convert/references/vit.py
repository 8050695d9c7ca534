"""The ViTs' PyTorch forward passes: transformers' classes, or a state dict.

Meta's and timm's layouts need neither repository: the state dict itself determines the forward pass, and
`StateDictViT` runs it with torch functions, key by key, without our table or our model.
Sources: facebookresearch/dino vision_transformer.py; facebookresearch/dinov2, dinov3 models/vision_transformer.py;
huggingface/pytorch-image-models timm/models/vision_transformer.py, eva.py.
"""

import math
from collections.abc import Mapping
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
from jaxdino.models.vit import ViTConfig

Tensors = Mapping[str, torch.Tensor]


class StateDictViT:
    """Run a ViT state dict in Meta's or timm's layout. Facts that no tensor holds come from `cfg`."""

    def __init__(self, state: Tensors, cfg: ViTConfig):
        self.state, self.cfg = {key: tensor.float() for key, tensor in state.items()}, cfg

    def _get(self, *names: str) -> torch.Tensor | None:
        return next((self.state[name] for name in names if name in self.state), None)

    def _linear(self, x, *names: str):
        name = next(name for name in names if f"{name}.weight" in self.state)
        return F.linear(x, self.state[f"{name}.weight"], self._get(f"{name}.bias"))

    def _norm(self, x, name: str):
        return F.layer_norm(
            x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], self.cfg.norm_eps
        )

    def embed(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Embed images (B, 3, H, W); return tokens (B, N, D) and the patch grid."""
        weight = self.state["patch_embed.proj.weight"]
        maps = F.conv2d(images, weight, self.state["patch_embed.proj.bias"], stride=weight.shape[-1])
        b, width, h, w = maps.shape
        patches, cls = maps.flatten(2).transpose(1, 2), self.state["cls_token"].expand(b, -1, -1)
        table = self._get("pos_embed")
        if table is not None:
            first = int(self.cfg.pos_cls)
            grid = table[:, first:].reshape(1, *self.cfg.pos_grid, width).permute(0, 3, 1, 2)
            patches = patches + self._resample(grid, (h, w)).flatten(2).transpose(1, 2)
            cls = cls + table[:, :first] if first else cls
        registers = self._get("register_tokens", "storage_tokens", "reg_token")
        extra = [] if registers is None else [registers.expand(b, -1, -1)]
        return torch.cat([cls, *extra, patches], dim=1), (h, w)

    def _resample(self, grid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        if tuple(grid.shape[2:]) == size:
            return grid
        how: dict = {"mode": "bicubic", "antialias": self.cfg.pos_antialias}
        offset = self.cfg.pos_offset
        if not offset:
            return F.interpolate(grid, size=size, **how)
        factor = [(n + offset) / m for n, m in zip(size, grid.shape[2:], strict=True)]
        return F.interpolate(grid, scale_factor=factor, **how)

    def _rope(self, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        if self.cfg.positions != "rope":
            return None
        periods = self._get("rope_embed.periods")
        if periods is None:
            quarter = self.cfg.head_dim // 4
            periods = self.cfg.rope_base ** (torch.arange(quarter, dtype=torch.float32) / quarter)
        ys, xs = (torch.arange(0.5, n) / n * 2 - 1 for n in (h, w))
        centres = torch.cartesian_prod(ys, xs)
        angles = (2 * math.pi * centres[:, :, None] / periods).flatten(1).tile(2)
        return angles.sin(), angles.cos()

    def _attention(self, x, i: int, rope) -> torch.Tensor:
        b, n, width = x.shape
        name, heads = f"blocks.{i}.attn", self.cfg.num_heads
        bias, mask = self._get(f"{name}.qkv.bias"), self._get(f"{name}.qkv.bias_mask")
        q_bias = self._get(f"{name}.q_bias")
        if q_bias is not None:
            bias = torch.cat([q_bias, torch.zeros_like(q_bias), self.state[f"{name}.v_bias"]])
        qkv = F.linear(x, self.state[f"{name}.qkv.weight"], bias if mask is None else bias * mask)
        q, k, v = qkv.reshape(b, n, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        if rope is not None:
            q, k = (self._rotate(t, *rope) for t in (q, k))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width)
        return self._linear(out, f"{name}.proj")

    @staticmethod
    def _rotate(x, sin, cos) -> torch.Tensor:
        first = x.shape[2] - sin.shape[0]
        head, tail = x[:, :, :first], x[:, :, first:]
        left, right = tail.chunk(2, dim=-1)
        return torch.cat([head, tail * cos + torch.cat([-right, left], dim=-1) * sin], dim=2)

    def _feed_forward(self, x, i: int) -> torch.Tensor:
        name = f"blocks.{i}.mlp"
        if not self.cfg.swiglu:
            return self._linear(F.gelu(self._linear(x, f"{name}.fc1")), f"{name}.fc2")
        if f"{name}.w1.weight" in self.state or f"{name}.fc1_g.weight" in self.state:
            gate, value = (
                self._linear(x, f"{name}.w1", f"{name}.fc1_g"),
                self._linear(x, f"{name}.w2", f"{name}.fc1_x"),
            )
        else:
            gate, value = self._linear(x, f"{name}.w12", f"{name}.fc1").chunk(2, dim=-1)
        return self._linear(F.silu(gate) * value, f"{name}.w3", f"{name}.fc2")

    def _scale(self, branch, i: int, n: int) -> torch.Tensor:
        gamma = self._get(f"blocks.{i}.ls{n}.gamma", f"blocks.{i}.gamma_{n}")
        return branch if gamma is None else branch * gamma

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Map images (B, 3, H, W) to tokens after the embedding, each block and the final norm: depth + 2 arrays."""
        x, grid = self.embed(torch.from_numpy(images))
        rope, states = self._rope(*grid), [x]
        for i in range(self.cfg.depth):
            x = x + self._scale(self._attention(self._norm(x, f"blocks.{i}.norm1"), i, rope), i, 1)
            x = x + self._scale(self._feed_forward(self._norm(x, f"blocks.{i}.norm2"), i), i, 2)
            states.append(x)
        return [state.numpy() for state in [*states, self._norm(x, "norm")]]


def shared(found: Recognised) -> str:
    """List the values that `StateDictViT` takes from our configuration, since a state dict does not hold them."""
    c = found.spec.config
    heads = [] if "rope_embed.periods" in found.keys else [f"{c.num_heads} attention heads"]
    table = [] if c.positions == "rope" else ["the resampling of positions"]
    return ", ".join([*heads, f"norms with an epsilon of {c.norm_eps:g}", *table])


def inputs(spec: ModelSpec, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return only the pixels (1, H, W, C), float32, normalised."""
    return {"images": pixels}


def ours(model: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Return our tokens (1, N, D) after the embedding, each block and the final norm."""
    states, _ = model.backbone.hidden_states(inputs["images"])
    return _named([*states, model.backbone.norm(states[-1])])


@torch.no_grad()
def original(found: Recognised, source: Source, folder: Path, inputs: Mapping[str, np.ndarray]) -> tuple[str, dict]:
    """Return a description of the original, and its tokens at the same places."""
    images = np.ascontiguousarray(inputs["images"].transpose(0, 3, 1, 2))
    if found.layout != "hf":
        run = StateDictViT(state_dict(found, source), found.spec.config)
        return f"the {found.layout} state dict in torch", _named(run(images))
    model = from_folder(folder)
    extra = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}
    out = model(torch.from_numpy(images), output_hidden_states=True, **extra)
    return "transformers", _named([state.numpy() for state in (*out.hidden_states, out.last_hidden_state)])


def _named(states: list) -> dict[str, Any]:
    blocks = [f"block {i}" for i in range(len(states) - 2)]
    return dict(zip(["embedding", *blocks, "output"], states, strict=True))
