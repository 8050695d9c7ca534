"""Small PyTorch vision transformers with the names and habits of Meta's published DINO checkpoints.

The original repositories are no installable packages, so what a checkpoint of theirs means is restated here.
Sources of names and habits: facebookresearch/dino vision_transformer.py; facebookresearch/dinov2
dinov2/models/vision_transformer.py; facebookresearch/dinov3 dinov3/models/vision_transformer.py.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.cases import CLASSES, DEPTH, GRID, HEADS, PATCH, WIDTH, Case


class MaskedLinear(nn.Linear):
    """DINOv3's qkv: its bias is multiplied by a buffer that is zero where the keys are."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out)
        self.register_buffer("bias_mask", torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(n_out // 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias * self.bias_mask)


class Attention(nn.Module):
    def __init__(self, mask_k_bias: bool, bias: bool):
        super().__init__()
        self.qkv = MaskedLinear(WIDTH, 3 * WIDTH) if mask_k_bias else nn.Linear(WIDTH, 3 * WIDTH, bias=bias)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, rope) -> torch.Tensor:
        heads = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = heads.unbind(0)
        if rope is not None:
            q, k = (_turn(t, *rope).to(v.dtype) for t in (q, k))  # turned in float32 whatever the model's dtype
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _turn(x: torch.Tensor, sin: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
    """Rotates the patch tokens; the tokens before them have no position."""
    before, x = x[:, :, : -len(sin)], x[:, :, -len(sin) :]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([before, x * cos + torch.cat([-second, first], dim=-1) * sin], dim=2)


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Fused(nn.Module):
    """DINOv2's SwiGLU: gate and value in one layer."""

    def __init__(self):
        super().__init__()
        self.w12, self.w3 = nn.Linear(WIDTH, 2 * 88), nn.Linear(88, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Apart(nn.Module):
    """DINOv3's SwiGLU: gate and value in two layers."""

    def __init__(self):
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(WIDTH, 88), nn.Linear(WIDTH, 88), nn.Linear(88, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class Gamma(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, feed_forward, eps: float, scaled: bool, mask_k_bias: bool, bias: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps), nn.LayerNorm(WIDTH, eps)
        self.attn, self.mlp = Attention(mask_k_bias, bias), feed_forward()
        self.ls1, self.ls2 = (Gamma(), Gamma()) if scaled else (nn.Identity(), nn.Identity())

    def forward(self, x: torch.Tensor, rope=None) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Rope(nn.Module):
    """DINOv3's positions; the released checkpoints hold the periods rounded to bfloat16."""

    def __init__(self):
        super().__init__()
        exponents = torch.arange(WIDTH // HEADS // 4) * 4 / (WIDTH // HEADS)
        self.register_buffer("periods", (100.0**exponents).bfloat16().float())

    def forward(self, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
        ys, xs = (2 * (torch.arange(n) + 0.5) / n - 1 for n in (h, w))
        centres = torch.stack(torch.meshgrid(ys, xs, indexing="ij"), dim=-1).reshape(h * w, 2, 1)
        angles = (2 * math.pi * centres / self.periods).flatten(1).tile(2)
        return angles.sin(), angles.cos()


class MetaViT(nn.Module):
    """One of Meta's backbones.

    Args:
      registers: number of register tokens, under the name `tokens_name`.
      rope: DINOv3's rotary positions instead of a learned table.
      scaled: layer scale; masked: a mask token.
      head: a linear classifier on the class token, as one puts on a DINO.
    """

    def __init__(
        self,
        feed_forward=Mlp,
        *,
        registers=0,
        tokens_name="register_tokens",
        rope=False,
        scaled=True,
        masked=True,
        mask_k_bias=False,
        bias=True,
        local_norm=False,
        head=False,
        depth=DEPTH,
    ):
        super().__init__()
        eps = 1e-5 if rope else 1e-6
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        if masked:
            self.mask_token = nn.Parameter(torch.zeros(1, WIDTH))
        if registers:
            self.register_parameter(tokens_name, nn.Parameter(torch.zeros(1, registers, WIDTH)))
        if rope:
            self.rope_embed = Rope()
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, GRID * GRID + 1, WIDTH))
        self.blocks = nn.ModuleList([Block(feed_forward, eps, scaled, mask_k_bias, bias) for _ in range(depth)])
        self.norm = nn.LayerNorm(WIDTH, eps)
        if local_norm:
            self.local_cls_norm = nn.LayerNorm(WIDTH, eps)
        self.head = nn.Linear(WIDTH, CLASSES) if head else nn.Identity()
        self.tokens_name, self.rope = tokens_name if registers else None, rope

    def positions(self, h: int, w: int) -> torch.Tensor:
        """The learned table for a grid of h x w patches, the class token's row first.

        Without registers the scale factor is passed to torch, made from a size that is 0.1 too large; with
        registers, the size itself, and the table is smoothed where it shrinks.
        """
        if h * w == GRID * GRID and h == w:
            return self.pos_embed
        table = self.pos_embed[:, 1:].reshape(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
        if self.tokens_name:
            how = dict(size=(h, w), antialias=True)
        else:
            how = dict(scale_factor=((h + 0.1) / GRID, (w + 0.1) / GRID))
        table = F.interpolate(table, mode="bicubic", **how)
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = pixels.shape
        h, w = height // PATCH, width // PATCH
        x = torch.cat([self.cls_token.expand(batch, -1, -1), self.patch_embed(pixels)], dim=1)
        rope = self.rope_embed(h, w) if self.rope else None
        x = x if self.rope else x + self.positions(h, w)
        if self.tokens_name:
            tokens = getattr(self, self.tokens_name).expand(batch, -1, -1)
            x = torch.cat([x[:, :1], tokens, x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x, rope)
        return self.head(self.norm(x)[:, 0])


def save(model: nn.Module, folder: Path) -> Path:
    """A bare state dict by torch.save."""
    torch.save(model.state_dict(), folder / "meta.pth")
    return folder / "meta.pth"


def _run(model: nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    out = model(pixels)
    return {} if isinstance(model.head, nn.Identity) else {"logits": out}


def _case(*args, layout: str | None = None, **fields) -> Case:
    overrules = {} if fields.get("rope") else {"num_heads": HEADS}  # DINOv3's periods tell the width of a head
    if layout:
        overrules["layout"] = layout
    return Case(
        build=lambda: MetaViT(*args, **fields),
        save=save,
        blocks="blocks",
        norm="norm",
        run=_run,
        registers=fields.get("registers", 0),
        overrules=overrules,
    )


DINOV3 = dict(rope=True, registers=4, tokens_name="storage_tokens")

META_CASES = {
    "meta dino": _case(scaled=False, masked=False),
    "meta dino head": _case(scaled=False, masked=False, head=True, layout="meta"),
    "meta dinov2": _case(),
    "meta dinov2 swiglu": _case(Fused),
    "meta dinov2 reg": _case(registers=4),
    "meta dinov2 reg swiglu": _case(Fused, registers=4),
    "meta dinov3": _case(mask_k_bias=True, **DINOV3),
    "meta dinov3 swiglu": _case(Apart, mask_k_bias=True, **DINOV3),
    "meta dinov3 local norm": _case(Apart, bias=False, local_norm=True, **DINOV3),
}
"""name -> case. A DINO with a head has timm's keys: the flag tells. The last is built like the 7B, qkv without bias."""
