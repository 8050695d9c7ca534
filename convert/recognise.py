"""Which model and layout a checkpoint is, told from its keys and shapes (and from config.json, where there is one)."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from convert.naming import agree, spec_of
from convert.preprocess import from_json
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.registry import DINOV3, IMAGENET, MODELS, ModelSpec, Preprocess, get
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
    heads = given or config.get("num_attention_heads") or _guessed_heads(width, shapes, family)
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(f"{heads} attention heads do not divide a width of {width}: give the number with --num_heads")
    if family == "dinov3" and width // heads % 4:
        raise UserError(
            f"{heads} attention heads of a width of {width} are {width // heads} wide each; rotary positions need a "
            f"multiple of 4: give the number with --num_heads"
        )
    return heads


def _guessed_heads(width: int, shapes: Shapes, family: str) -> int:
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


def _trained_on(spec: ModelSpec, shapes: Shapes) -> Preprocess:
    """The model's preprocessing; masked auto-encoders see ImageNet's mean and deviation, unlike timm's own ViTs."""
    if spec.family == "vit" and any(key.startswith("decoder_") for key in shapes):
        return dataclasses.replace(spec.preprocess, mean=IMAGENET[0], std=IMAGENET[1], crop_pct=0.875)
    return spec.preprocess


def _overruled(family: str, found: str, model: str | None, layout: str | None) -> tuple[str, str]:
    """(family, layout) as the keys tell them, corrected by a named model and layout that fit the same keys."""
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"there is no layout {layout!r}; {did_you_mean(layout, LAYOUTS)}")
    if model is not None:
        named = get(model).family
        if named != family and not {named, family} <= {"vit", "dino"}:
            raise UserError(f"the checkpoint is of the {family} family; {model} is of {named}")
        if {named, family} <= {"vit", "dino"}:  # the same keys: only the name tells them apart
            family, found = named, found if found == "hf" else {"vit": "timm", "dino": "meta"}[named]
    if layout in (None, found):
        return family, found
    if {layout, found} == {"meta", "timm"} and family in ("vit", "dino"):  # the same keys again
        return family if model else {"meta": "dino", "timm": "vit"}[layout], layout
    raise UserError(f"the checkpoint's keys are of the layout {found!r}, not {layout!r}")


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
    if "fc_norm.weight" in own:
        raise UserError(
            "the checkpoint has fc_norm in place of the final norm (timm's global_pool='avg', as in fine-tuned masked "
            "auto-encoders): such models are not supported; their pre-trained checkpoints, with norm, are"
        )
    json = json if json and "model_type" in json else {}
    family, found = _overruled(*_style(own), model, layout)
    config = _config(own, family, found, json, num_heads)
    _check_activation(config, family, json)
    mean = tuple((preprocessor or {}).get("image_mean", ()))
    spec = agree(get(model), config) if model else spec_of(config, family, mean)
    how = from_json(_trained_on(spec, own), preprocessor)
    spec = dataclasses.replace(spec, config=config, preprocess=how)
    head = _first(own, "classifier.weight", "head.weight")
    return Recognised(spec, found, prefix, keys, aside, head[0] if head else 0)
