"""Find the number of attention heads of a ViT, which shapes do not show; assume it if it is unknown."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from convert.assumptions import assume
from convert.family import Hints, Shapes
from jaxdino.core.errors import UserError
from jaxdino.models.registry import MODELS

SIZES = {
    "tiny": (192, 3),
    "small": (384, 6),
    "base": (768, 12),
    "large": (1024, 16),
    "huge": (1280, 16),
    "giant": (1408, 16),
    "giant2": (1536, 24),
    "gigantic": (1664, 16),
}
"""{word in an architecture's name: (width, heads)}, in DINO, DeiT, MAE, DINOv2 and timm."""
ARCHITECTURES = ("arch", "args.arch", "args.model")
"""Keys of the architecture's name in training checkpoints of timm, DeiT, MAE and DINO."""
MOCO = {"base_encoder", "momentum_encoder"}
MOCO_SMALL = (384, 12)
"""MoCo v3's `vit_small` has 12 heads where everyone else's has 6. Source: facebookresearch/moco-v3 vits.py."""


class Shape(NamedTuple):
    """The facts in the tensors of a ViT that its heads depend on."""

    family: str
    width: int
    depth: int
    mlp_dim: int


def num_heads(own: Shape, shapes: Shapes, json: Mapping[str, Any], hints: Hints) -> tuple[int, tuple[str, ...]]:
    """Return the number of heads, and the assumption if it was assumed.

    Raises:
      UserError: if it is unknown, or does not divide the width.
    """
    heads, assumed = _said(own.width, shapes, json, hints), ()
    if heads is None:
        heads, why = _guessed(own, hints)
        assumed = (assume(f"{heads} attention head{'s' * (heads > 1)}", why, "num_heads"),) if why else ()
    if not isinstance(heads, int) or heads < 1 or own.width % heads:
        raise UserError(
            f"{heads} attention heads do not divide a width of {own.width}: give the number with --num_heads"
        )
    if own.family == "dinov3" and own.width // heads % 4:
        raise UserError(
            f"{heads} attention heads of a width of {own.width} are {own.width // heads} wide each; rotary positions "
            "need a multiple of 4: give the number with --num_heads"
        )
    return heads, assumed


def _said(width: int, shapes: Shapes, json: Mapping[str, Any], hints: Hints) -> int | None:
    """Read it from the flag, config.json, the rotary periods, the architecture's name, or the user's model."""
    if heads := hints.num_heads or json.get("num_attention_heads"):
        return heads
    if "rope_embed.periods" in shapes:
        return width // (4 * shapes["rope_embed.periods"][0])
    if heads := (hints.json.get("model_args") or {}).get("num_heads"):
        return heads
    if hints.extras.get("arch") == "vit_small" and MOCO & set(hints.prefix.split(".")) and width == MOCO_SMALL[0]:
        return MOCO_SMALL[1]
    if hints.model and MODELS[hints.model].config.width == width:
        return MODELS[hints.model].config.num_heads
    names = [hints.json.get("architecture"), *(hints.extras.get(key) for key in ARCHITECTURES)]
    return next((heads for name in names if (heads := _named(name, width))), None)


def _named(architecture: Any, width: int) -> int | None:
    """Return the heads of an architecture whose name contains one of `SIZES` with the same width."""
    words = re.split(r"[_-]", architecture) if isinstance(architecture, str) else ()
    return next((heads for word in words for size, heads in [SIZES.get(word, (0, 0))] if size == width), None)


def _guessed(own: Shape, hints: Hints) -> tuple[int, str]:
    """Return the heads and the reason; the reason is empty if a published shape determines them."""
    if MOCO & set(hints.prefix.split(".")) and own.width == MOCO_SMALL[0]:
        return MOCO_SMALL[1], "MoCo v3's ViT-S"
    for spec in MODELS.values():
        if (spec.family, spec.config.width) == (own.family, own.width):
            c = spec.config
            same = own.family in ("dinov2", "dinov3") and (c.depth, c.mlp_dim) == (own.depth, own.mlp_dim)
            return c.num_heads, "" if same else f"width {own.width} / {own.width // c.num_heads}"
    for word, (width, heads) in SIZES.items():
        if own.family in ("dino", "vit") and width == own.width:
            return heads, f"as in timm's vit_{word} of width {width}"
    if own.width % 64 == 0:
        return own.width // 64, f"width {own.width} / 64"
    raise UserError(
        f"the number of attention heads cannot be told from a width of {own.width}: give it with --num_heads"
    )
