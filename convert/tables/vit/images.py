"""Preprocessing and constants of a ViT that has no file beside its tensors."""

from collections.abc import Mapping
from typing import Any

from convert.assumptions import assume
from convert.family import Hints, Shapes
from convert.networks import role
from convert.tables.vit.num_heads import ARCHITECTURES, Shape
from jaxdino.models.registry import MODELS
from jaxdino.models.spec import IMAGENET, Preprocess
from jaxdino.models.vit import ViTConfig

DINOV2_TABLE = (518, 518)
"""Image size of DINOv2's position table; by convention the model is used at 224."""
LARGE = 384
"""From this size on, timm's ViTs use the whole image, not a centre crop."""
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"


def trained_size(own: Shape, config: ViTConfig, json: Mapping[str, Any]) -> tuple[tuple[int, int], str] | None:
    """Return (height, width) of the training images, and the source of this fact."""
    if config.positions == "rope":
        size = json.get("image_size")
        return (tuple(size) if isinstance(size, list) else (size, size), f"image_size in {CONFIG}") if size else None
    height, width = (side * config.patch_size for side in config.pos_grid)
    if own.family == "dinov2" and (height, width) == DINOV2_TABLE:
        return None
    return (height, width), "{} x {} positions of {} pixels".format(*config.pos_grid, config.patch_size)


def trained_on(own: Shape, shapes: Shapes, hints: Hints) -> Preprocess | None:
    """Return the preprocessing of masked auto-encoders and DeiT: ImageNet's statistics, unlike timm's own ViTs."""
    if own.family == "vit" and (_masked(shapes) or _is_deit(hints)):
        return Preprocess(mean=IMAGENET[0], std=IMAGENET[1], crop_pct=0.875)
    return None


def _masked(shapes: Shapes) -> bool:
    return any(key.startswith("decoder_") for key in shapes)


def _is_deit(hints: Hints) -> bool:
    return any(str(hints.extras.get(key)).startswith("deit") for key in ARCHITECTURES)


def pixels(own: Shape, layout: str, config: ViTConfig, shapes: Shapes, hints: Hints) -> tuple[str, ...]:
    """Return the assumptions about the images: DINO's plain ViT and timm's have the same keys."""
    lines = ()
    table = own.family == "dinov2" and config.pos_grid == tuple(side // config.patch_size for side in DINOV2_TABLE)
    if table and layout == "timm" and not hints.sized:
        lines += (assume("images of 224 x 224 pixels", "as DINOv2's own evaluation; timm's is at 518", "image_size"),)
    plain = own.family in ("dino", "vit") and not (hints.model or hints.layout)
    if not plain or _masked(shapes) or _is_deit(hints) or role(hints.prefix):
        return lines
    imagenet, inception = "ImageNet's mean and deviation", "pixels in -1..1"
    what, why, other = {
        "dino": (f"{imagenet}, as DINO", f"a plain ViT without a head; timm's see {inception}", "layout=timm"),
        "vit": (f"{inception}, as timm's ViTs", f"a plain ViT with a head; DeiT's see {imagenet}", "layout=meta"),
    }[own.family]
    by = {"file": PROCESSOR} if layout == "hf" else {"flag": other}
    return (*lines, assume(what, why, **by))


def constants(own: Shape, layout: str, config: ViTConfig, shapes: Shapes, json: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the assumptions about facts that only config.json holds, if it is missing and the shape is unpublished."""
    lines = ()
    if layout == "hf" and own.family in ("dino", "vit") and "layer_norm_eps" not in json:
        lines += (assume(f"norms with an epsilon of {config.norm_eps:g}", "transformers' default", file=CONFIG),)
    known = any(_same(spec.config, config) for spec in MODELS.values() if spec.family == own.family)
    if own.family == "dinov3" and "rope_embed.periods" not in shapes and not json and not known:
        lines += (assume(f"rotary positions of base {config.rope_base:g}", "as all of DINOv3", file=CONFIG),)
    return lines


def _same(published: ViTConfig, config: ViTConfig) -> bool:
    return all(getattr(published, name) == getattr(config, name) for name in ("width", "depth", "mlp_dim"))
