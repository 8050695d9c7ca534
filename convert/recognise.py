"""Which model and layout a checkpoint is, told from its keys and shapes (and from config.json, where there is one)."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.registry import DINOV3, MODELS, ModelSpec, Preprocess, get
from jaxdino.models.vit import ViTConfig

Shapes = Mapping[str, tuple[int, ...]]

LAYOUTS = ("hf", "meta", "timm")
ANCHORS = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.weight",
)
"""A key that every checkpoint of the layouts ends in once: what stands before it is the checkpoint's prefix."""

PREFERRED = ("teacher", "ema", "model_ema", "state_dict_ema", "target", "model", "state_dict", "module")
"""Of several networks in one checkpoint, the one whose prefix begins with the first of these is taken."""

SHAPE_FIELDS = (
    "patch_size",
    "width",
    "depth",
    "num_heads",
    "mlp_dim",
    "swiglu",
    "layer_scale",
    "num_registers",
    "positions",
)
"""What makes two checkpoints the same published model; the rest may vary with layout and training."""


@dataclasses.dataclass(frozen=True)
class Recognised:
    """What a checkpoint was found to be.

    Attributes:
      layout: "hf", "meta" or "timm".
      keys: {key of the layout: key in the file} of the chosen network, prefix removed.
      aside: keys of the file that belong to another network, an optimiser or a projection head.
      num_classes: of the classification head, 0 without one.
    """

    spec: ModelSpec
    layout: str
    prefix: str
    keys: dict[str, str]
    aside: list[str]
    num_classes: int


def prefixes(keys) -> list[str]:
    """The prefixes under which the file holds a network, the preferred one first."""
    found = {key[: -len(anchor)] for key in keys for anchor in ANCHORS if key.endswith(anchor)}
    # "a.b.patch_embed..." must end at a dot, or be empty
    found = {prefix for prefix in found if not prefix or prefix.endswith(".")}

    def rank(prefix: str) -> tuple:
        first = prefix.split(".")[0]
        return (
            PREFERRED.index(first) if first in PREFERRED else -1 if not prefix else len(PREFERRED),
            prefix,
        )

    return sorted(found, key=rank)


def _choose_prefix(keys, prefix: str | None) -> str:
    found = prefixes(keys)
    if not found:
        raise UserError(
            f"no vision transformer in this file: none of its {len(keys)} keys ends in {' or '.join(ANCHORS[:2])}; "
            f"it begins with {', '.join(sorted(keys)[:5]) or 'nothing'}"
        )
    if prefix is None:
        return found[0]
    prefix = prefix if not prefix or prefix.endswith(".") else prefix + "."
    if prefix not in found:
        raise UserError(f"there is no network under {prefix!r}; found under: {', '.join(map(repr, found))}")
    return prefix


def _select(keys, prefix: str) -> tuple[dict[str, str], list[str]]:
    """The network's keys without their prefix; a classification head may stand outside (as in transformers)."""
    chosen = {key[len(prefix) :]: key for key in keys if key.startswith(prefix)}
    outer = re.sub(r"[^.]+\.$", "", prefix)
    for name in ("classifier.weight", "classifier.bias", "head.weight", "head.bias"):
        if name not in chosen and outer + name in keys:
            chosen[name] = outer + name
    taken = set(chosen.values())
    return chosen, [key for key in keys if key not in taken]


def _style(keys) -> tuple[str, str]:
    """(family, layout) from the words that only one layout uses."""
    if "embeddings.patch_embeddings.weight" in keys:
        return "dinov3", "hf"
    if "encoder.layer.0.layer_scale1.lambda1" in keys:
        return "dinov2", "hf"
    if "embeddings.patch_embeddings.projection.weight" in keys:
        return ("vit" if "classifier.weight" in keys else "dino"), "hf"
    if "blocks.0.gamma_1" in keys:
        return "dinov3", "timm"
    if "rope_embed.periods" in keys or "storage_tokens" in keys:
        return "dinov3", "meta"
    if "blocks.0.ls1.gamma" in keys:
        meta = "mask_token" in keys or "register_tokens" in keys or "blocks.0.mlp.w12.weight" in keys
        return "dinov2", "meta" if meta else "timm"
    has_head = "head.weight" in keys or any(key.startswith("decoder_") for key in keys)
    return ("vit", "timm") if has_head else ("dino", "meta")


def _first(shapes: Shapes, *keys: str) -> tuple[int, ...] | None:
    return next((shapes[key] for key in keys if key in shapes), None)


def _depth(shapes: Shapes) -> int:
    numbers = [int(m[1]) for key in shapes if (m := re.match(r"(?:blocks|(?:encoder\.)?layer)\.(\d+)\.", key))]
    if not numbers:
        raise UserError("the checkpoint holds no transformer blocks")
    return max(numbers) + 1


def _heads(width: int, shapes: Shapes, family: str, config: Mapping[str, Any], given: int | None) -> int:
    """Attention heads, which no shape tells: from the flag, config.json, the rotary periods or published widths."""
    if given or "num_attention_heads" in config:
        return given or config["num_attention_heads"]
    if "rope_embed.periods" in shapes:
        return width // (4 * shapes["rope_embed.periods"][0])
    for spec in MODELS.values():
        if spec.config.width == width and spec.family == family:
            return spec.config.num_heads
    if width % 64 == 0:
        return width // 64
    raise UserError(f"the number of attention heads cannot be told from a width of {width}: give it with --num_heads")


def _grid(shapes: Shapes, patch: int, config: Mapping[str, Any]) -> tuple[tuple[int, int], bool]:
    """The position table's grid, and whether the class token has a row in it."""
    rows = _first(shapes, "pos_embed", "embeddings.position_embeddings")[1]
    size = config.get("image_size")
    if size is not None:
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        if (height // patch) * (width // patch) == rows - 1:
            return (height // patch, width // patch), True
    for has_cls in (True, False):
        side = math.isqrt(rows - has_cls)
        if side * side == rows - has_cls:
            return (side, side), has_cls
    raise UserError(f"a position table of {rows} rows is not a square grid, with or without a class token's row")


def _feed_forward(shapes: Shapes, width: int) -> tuple[int, bool]:
    """(hidden width, SwiGLU?) from the first block."""
    gated = {
        "blocks.0.mlp.w12.weight": 2,
        "blocks.0.mlp.w1.weight": 1,
        "blocks.0.mlp.fc1_g.weight": 1,
        "encoder.layer.0.mlp.weights_in.weight": 2,
        "layer.0.mlp.gate_proj.weight": 1,
    }
    for key, halves in gated.items():
        if key in shapes:
            return shapes[key][0] // halves, True
    plain = (
        "blocks.0.mlp.fc1.weight",
        "encoder.layer.0.mlp.fc1.weight",
        "encoder.layer.0.intermediate.dense.weight",
        "layer.0.mlp.up_proj.weight",
    )
    hidden = _first(shapes, *plain)
    out = _first(shapes, "blocks.0.mlp.fc2.weight")
    if hidden is None:
        raise UserError("the first block has no feed-forward layer that any layout names")
    packed = out is not None and 2 * out[1] == hidden[0]  # timm packs both halves of a SwiGLU in fc1
    return (out[1], True) if packed else (hidden[0], False)


def _config(shapes: Shapes, family: str, layout: str, json: Mapping[str, Any], heads: int | None) -> ViTConfig:
    patch_shape = _first(shapes, *ANCHORS)
    if len(patch_shape) != 4 or patch_shape[2] != patch_shape[3]:
        raise UserError(f"a patch embedding of shape {patch_shape} is not a convolution with square patches")
    width, channels, patch, _ = patch_shape
    mlp_dim, swiglu = _feed_forward(shapes, width)
    registers = _first(shapes, "register_tokens", "storage_tokens", "reg_token", "embeddings.register_tokens")
    biases = ("blocks.0.attn.qkv.bias", "blocks.0.attn.q_bias", "layer.0.attention.q_proj.bias")
    fields: dict[str, Any] = {
        "patch_size": patch,
        "width": width,
        "depth": _depth(shapes),
        "num_heads": _heads(width, shapes, family, json, heads),
        "mlp_dim": mlp_dim,
        "swiglu": swiglu,
        "in_channels": channels,
        "num_registers": registers[1] if registers else 0,
        "qkv_bias": _first(shapes, *biases, "encoder.layer.0.attention.attention.query.bias") is not None,
        "layer_scale": family in ("dinov2", "dinov3"),
        "local_cls_norm": "local_cls_norm.weight" in shapes,
        "pooler": "pooler.dense.weight" in shapes,
        "norm_eps": json.get("layer_norm_eps", 1e-5 if family == "dinov3" else 1e-6),
    }
    token = _first(shapes, "mask_token", "embeddings.mask_token")
    fields["mask_token"] = (
        token is not None and token[-1] == width and (family in ("dinov2", "dinov3") or layout == "hf")
    )
    if family == "dinov3":
        fields["positions"] = "rope"
        fields["rope_base"] = json.get("rope_theta", DINOV3.get("rope_base", 100.0))
        fields["mask_k_bias"] = "layer.0.attention.k_proj.bias" not in shapes
    else:
        fields["pos_grid"], fields["pos_cls"] = _grid(shapes, patch, json)
        fields.update(resampling(family, layout, fields["num_registers"] > 0))
    return ViTConfig(**fields)


def _check_activation(config: ViTConfig, family: str, json: Mapping[str, Any]) -> None:
    """Refuses a Hugging Face folder whose config.json asks for another activation than the family's."""
    expected = "silu" if family == "dinov3" and config.swiglu else "gelu"
    if json.get("hidden_act", expected) != expected:
        raise UserError(f"config.json says hidden_act={json['hidden_act']!r}; only {expected!r} is known for {family}")


def resampling(family: str, layout: str, registers: bool) -> dict[str, Any]:
    """How the layout's own code resamples learned positions: they differ, and each is reproduced."""
    if layout == "timm":
        return {"pos_offset": 0.0, "pos_antialias": True}
    if layout == "hf":
        return {"pos_offset": 0.0, "pos_antialias": family == "dinov2" and registers}
    plain = family in ("dino", "dinov2") and not registers
    return {"pos_offset": 0.1 if plain else 0.0, "pos_antialias": not plain}


def _preprocess(spec: ModelSpec, json: Mapping[str, Any] | None) -> Preprocess:
    """The family's preprocessing, corrected by preprocessor_config.json."""
    own = spec.preprocess
    if not json:
        return own
    size, crop = json.get("size") or {}, json.get("crop_size")
    cropped = crop is not None and json.get("do_center_crop", True)
    height, width = _sides(crop if cropped else size, own.size)
    edge = size.get("shortest_edge") if isinstance(size, dict) else None
    return Preprocess(
        mean=tuple(json.get("image_mean", own.mean)),
        std=tuple(json.get("image_std", own.std)),
        size=(height, width),
        crop_pct=height / edge if cropped and edge else 1.0,
        interpolation={2: "bilinear", 3: "bicubic"}.get(json.get("resample"), own.interpolation),
    )


def _sides(size: Any, default: tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, dict):
        edge = size.get("shortest_edge", default[0])
        return size.get("height", edge), size.get("width", edge)
    return (size, size) if isinstance(size, int) else default


def _name(config: ViTConfig, family: str, mean: tuple[float, ...]) -> ModelSpec:
    """The published model of these shapes, or a new one named after its family; `mean` tells twins apart."""
    families = {"dino": ("dino", "vit"), "vit": ("vit", "dino")}.get(family, (family,))
    alike = [
        spec
        for wanted in families
        for spec in MODELS.values()
        if spec.family == wanted and all(getattr(spec.config, f) == getattr(config, f) for f in SHAPE_FIELDS)
    ]
    if alike:
        by_mean = [spec for spec in alike if spec.preprocess.mean == mean]
        by_norm = [spec for spec in alike if spec.config.local_cls_norm == config.local_cls_norm]
        return (by_mean or by_norm or alike)[0]
    like = next(spec for spec in MODELS.values() if spec.family == family and spec.hub)
    return dataclasses.replace(like, name=f"{family}_custom", hub=None)


def recognise(
    shapes: Shapes,
    *,
    json: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] | None = None,
    model: str | None = None,
    layout: str | None = None,
    prefix: str | None = None,
    num_heads: int | None = None,
) -> Recognised:
    """Tells model, layout and network from the header of a checkpoint; the named arguments overrule.

    Args:
      shapes: {key: shape} of the whole file.
      json, preprocessor: config.json and preprocessor_config.json, where the file has them beside it.

    Raises:
      UserError: if there is no network in it, or it is not the model or layout that was named.
    """
    prefix = _choose_prefix(shapes, prefix)
    keys, aside = _select(shapes, prefix)
    own = {key: shapes[full] for key, full in keys.items()}
    family, found = _style(own)
    json = json if json and "model_type" in json else {}
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"there is no layout {layout!r}; {did_you_mean(layout, LAYOUTS)}")
    if model is not None:
        named = get(model)
        if {named.family, family} <= {"vit", "dino"}:  # the same keys: only the name tells them apart
            family, found = (
                named.family,
                found if found == "hf" else ("timm" if named.family == "vit" else "meta"),
            )
        elif named.family != family:
            raise UserError(f"the checkpoint is of the {family} family; {model} is of {named.family}")
    if layout is not None and layout != found:
        if {layout, found} == {"meta", "timm"} and family in ("vit", "dino"):  # the same keys again
            found, family = layout, family if model else {"meta": "dino", "timm": "vit"}[layout]
        else:
            raise UserError(f"the checkpoint's keys are of the layout {found!r}, not {layout!r}")
    config = _config(own, family, found, json, num_heads)
    _check_activation(config, family, json)
    spec = (
        _agree(get(model), config)
        if model
        else _name(config, family, tuple((preprocessor or {}).get("image_mean", ())))
    )
    spec = dataclasses.replace(spec, config=config, preprocess=_preprocess(spec, preprocessor))
    head = _first(own, "classifier.weight", "head.weight")
    return Recognised(spec, found, prefix, keys, aside, head[0] if head else 0)


def _agree(spec: ModelSpec, config: ViTConfig) -> ModelSpec:
    wrong = [
        f"{field}: the checkpoint has {getattr(config, field)}, {spec.name} has {getattr(spec.config, field)}"
        for field in SHAPE_FIELDS
        if getattr(config, field) != getattr(spec.config, field)
    ]
    if wrong:
        raise UserError(f"the checkpoint is not a {spec.name}: " + "; ".join(wrong))
    return spec
