"""Fit a ViT to another layout: add required tensors, and resample positions where layouts differ."""

import dataclasses
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.card import Card
from convert.tables.vit.detect import norm_eps, resampling
from jaxdino.core.errors import UserError
from jaxdino.models import positions
from jaxdino.models.registry import MODELS
from jaxdino.models.rope import rope_periods
from jaxdino.models.vit import ViTConfig

B = "backbone."


def fit(card: Card, flat: Mapping[str, Any], layout: str) -> tuple[Card, dict[str, Any], list[str]]:
    """Return the card, the changed leaves, and notes for export to another layout than the model's own."""
    changes: dict[str, Any] = {}
    flat, config, notes = ChainMap(changes, flat), card.spec.config, []
    for step in STEPS:
        config = step(card, config, flat, layout, notes)
    spec = dataclasses.replace(card.spec, config=config)
    return dataclasses.replace(card, spec=spec), changes, notes


def _layer_scale(card: Card, config: ViTConfig, flat, layout: str, notes) -> ViTConfig:
    """Add or remove layer scales: DINOv2 and DINOv3 have them everywhere, DINO and plain ViTs nowhere.

    Scales of one are added, others are multiplied into the kernel and bias of the branch's last layer.
    """
    scaled = card.spec.family in ("dinov2", "dinov3")
    if config.layer_scale == scaled:
        return config
    for i in range(config.depth):
        for n, last in (("1", "attn.proj"), ("2", "mlp.w3" if config.swiglu else "mlp.fc2")):
            path, gamma = f"{B}blocks.{i}.{last}", f"{B}blocks.{i}.ls{n}.gamma"
            if scaled:
                flat[gamma] = _like(flat, (config.width,)) + 1
            else:
                for leaf in ("kernel", "bias"):
                    flat[f"{path}.{leaf}"] = np.asarray(flat[f"{path}.{leaf}"]) * np.asarray(flat[gamma])
                flat[gamma] = None
    notes.append(
        "layer scales of one were added: this family has them everywhere"
        if scaled
        else "layer scales were multiplied into the layers before them: this family has none"
    )
    return dataclasses.replace(config, layer_scale=scaled)


def _no_key_bias(card: Card, config: ViTConfig, flat, layout: str, notes) -> ViTConfig:
    """Refuse a bias of the keys, which timm's DINOv3 lacks; with rotary positions it changes the outputs."""
    if layout != "timm" or card.spec.family != "dinov3" or not config.qkv_bias or config.mask_k_bias:
        return config
    for i in range(config.depth):
        if np.asarray(flat[f"{B}blocks.{i}.attn.qkv.bias"])[config.width : -config.width].any():
            raise UserError("timm's DINOv3 has no bias of the keys, and this model has one: use the layout hf or meta")
    return config


def _like(flat: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.asarray(flat[f"{B}cls_token"]).dtype)


def _tokens(card: Card, config: ViTConfig, flat, layout: str, notes) -> ViTConfig:
    """Add a mask token: Meta's and transformers' DINOv2 and DINOv3 have one; timm's do not."""
    if layout == "timm" or card.spec.family not in ("dinov2", "dinov3") or config.mask_token:
        return config
    flat[f"{B}mask_token"] = _like(flat, (1, config.width))
    return dataclasses.replace(config, mask_token=True)


def _key_bias(card: Card, config: ViTConfig, flat, layout: str, notes) -> ViTConfig:
    """Add zero biases of q, k, v: timm's DINOv3 omits them; Meta's module requires them (except the 7B)."""
    published = MODELS.get(card.spec.name)
    wanted = published.config.qkv_bias if published else True
    if layout != "meta" or card.spec.family != "dinov3" or config.qkv_bias or not wanted:
        return config
    for i in range(config.depth):
        flat[f"{B}blocks.{i}.attn.qkv.bias"] = _like(flat, (3 * config.width,))
    return dataclasses.replace(config, qkv_bias=True)


def _local_norm(card: Card, config: ViTConfig, flat, layout: str, notes) -> ViTConfig:
    """Add the norm for local crops of Meta's 7B and satellite ViT-L (pre-training only); other layouts drop it."""
    published = MODELS.get(card.spec.name)
    if layout != "meta" or config.local_cls_norm or not (published and published.config.local_cls_norm):
        return config
    for leaf in ("scale", "bias"):
        flat[f"{B}local_cls_norm.{leaf}"] = flat[f"{B}norm.{leaf}"]
    notes.append("local_cls_norm, unused outside pre-training, was filled with a copy of norm")
    return dataclasses.replace(config, local_cls_norm=True)


def _class_position(card: Card, config: ViTConfig, flat, layout: str, notes) -> ViTConfig:
    """Adapt the class token's position: only timm's DINOv2 with registers adds it to the token itself."""
    if config.positions != "learned":
        return config
    merged = layout == "timm" and card.spec.family == "dinov2" and config.num_registers > 0
    table, token = f"{B}pos_embed", f"{B}cls_token"
    if merged and config.pos_cls:
        flat[token] = np.asarray(flat[token]) + np.asarray(flat[table])[:, :1]
        flat[table] = np.asarray(flat[table])[:, 1:]
    elif not merged and not config.pos_cls:
        flat[table] = np.concatenate([_like(flat, (1, 1, config.width)), np.asarray(flat[table])], axis=1)
    return dataclasses.replace(config, pos_cls=not merged)


def _baked_positions(card: Card, config: ViTConfig, flat, layout: str, notes) -> ViTConfig:
    """Resample the position table to the model's image size if the layouts resample differently."""
    if config.positions != "learned":
        return config
    how = resampling(card.spec.family, layout, config.num_registers > 0)
    size = tuple(side // config.patch_size for side in card.spec.preprocess.size)
    own = {"pos_offset": config.pos_offset, "pos_antialias": config.pos_antialias}
    if how != own and size != config.pos_grid:
        path, first = f"{B}pos_embed", int(config.pos_cls)
        table = np.asarray(flat[path])
        grid = table[0, first:].reshape(*config.pos_grid, config.width)
        grid = positions.resample_grid(grid, size, offset=config.pos_offset, antialias=config.pos_antialias)
        grid = np.asarray(grid).astype(table.dtype).reshape(1, -1, config.width)
        flat[path] = np.concatenate([table[:, :first], grid], axis=1)
        notes.append(
            f"positions were resampled from {config.pos_grid} to {size}: the {layout} layout resamples differently"
        )
        how["pos_grid"] = size
    return dataclasses.replace(config, **how)


def _square(card: Card, config: ViTConfig, flat, layout: str, notes) -> ViTConfig:
    """Refuse a position table that is not square if the layout's code takes the square root of its length."""
    code = layout == "meta" or (layout, card.spec.family) == ("hf", "dinov2")
    if config.positions == "learned" and code and config.pos_grid[0] != config.pos_grid[1]:
        raise UserError(
            f"the {layout} layout of {card.spec.family} needs a square table of positions, this model's is "
            f"{config.pos_grid[0]} x {config.pos_grid[1]}: export to timm"
        )
    return config


def _compare_periods(card: Card, config: ViTConfig, flat, layout: str, notes) -> ViTConfig:
    """Note differing RoPE periods: only Meta's layout stores them, rounded in its published files."""
    if config.positions != "rope" or layout == "meta":
        return config
    formula = rope_periods(config.head_dim, config.rope_base)
    off = float(np.max(np.abs(np.asarray(flat[f"{B}rope.periods"], np.float32) / formula - 1)))
    if off > 1e-6:
        notes.append(
            f"the {layout} layout recomputes RoPE's periods; this model's differ from that by up to {off:.1e} "
            f"(Meta's files hold them rounded to bfloat16), so outputs will differ slightly"
        )
    return config


def _norm_eps(card: Card, config: ViTConfig, flat, layout: str, notes) -> ViTConfig:
    """Note another epsilon of the norms: only transformers' config.json stores it."""
    own = norm_eps(card.spec.family)
    if layout == "hf" or config.norm_eps == own:
        return config
    notes.append(
        f"the {layout} layout means norm_eps = {own}, this model {config.norm_eps}: outputs will differ slightly"
    )
    return dataclasses.replace(config, norm_eps=own)


STEPS = (
    _layer_scale,
    _tokens,
    _key_bias,
    _no_key_bias,
    _local_norm,
    _class_position,
    _baked_positions,
    _square,
    _compare_periods,
    _norm_eps,
)
"""Steps of `fit`, in order: each takes (card, config, flat, layout, notes) and returns the configuration."""
