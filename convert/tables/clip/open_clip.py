"""Read and write open_clip's open_clip_config.json.

Source: mlfoundations/open_clip src/open_clip/model.py (CLIPVisionCfg, CLIPTextCfg) and push_to_hf_hub.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from convert.card import Card
from jaxdino.core.errors import UserError
from jaxdino.models.clip import CLIPConfig, TextConfig, VisionConfig
from jaxdino.models.published.clip import preprocess
from jaxdino.models.spec import Preprocess

Json = Mapping[str, Any]

VISION = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
"""open_clip's defaults for missing fields."""

HARMLESS = {
    "vision_cfg": {"pool_type": "tok", "pos_embed_type": "learnable", "block_type": "default"},
    "text_cfg": {"pool_type": "argmax", "proj_type": "linear", "text_arch": "clip", "block_type": "default"},
    "model_cfg": {},
}
"""Values of other options that do not change the model; False, None and 0 do not either."""

UNUSED = {
    "vision_cfg": ("patch_dropout", "attn_pooler_queries", "attn_pooler_heads", "timm_pool", "timm_proj"),
    "text_cfg": ("eos_id", "bos_id"),
    "model_cfg": ("custom_text",),
}
"""Options that only affect training or other kinds of towers."""

CROP_MODES = {"shortest": "center", "squash": "squash"}
"""open_clip's resize_mode -> our crop_mode; its "longest" pads with black, before normalising. Source:
mlfoundations/open_clip src/open_clip/transform.py image_transform."""
PREPROCESS = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}
"""Fields of preprocess_cfg; the mode is always RGB, and the fill colour belongs to "longest"."""


def quick_gelu(json: Json) -> bool:
    """Return whether open_clip_config.json sets the quick GELU."""
    return bool(json["model_cfg"].get("quick_gelu", False))


def settled(config: CLIPConfig, json: Json) -> tuple[CLIPConfig, Preprocess | None]:
    """Complete the configuration, read from shapes, with open_clip_config.json; also return its preprocessing, if any.

    Raises:
      UserError: if it needs something unsupported, or contradicts the tensors.
    """
    model = json["model_cfg"]
    towers = {name: model.get(name) or {} for name in ("vision_cfg", "text_cfg")}
    _supported("model_cfg", model, {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"})
    wrong, changed = [], {}
    if config.vision:
        _supported("vision_cfg", towers["vision_cfg"], VISION)
        changed["vision"] = _vision(config.vision, {**VISION, **towers["vision_cfg"]}, wrong)
    if config.text:
        _supported("text_cfg", towers["text_cfg"], TEXT)
        changed["text"] = _text(config.text, {**TEXT, **towers["text_cfg"]}, wrong)
    if config.embed_dim not in (None, model.get("embed_dim")):
        wrong.append(f"embed_dim={model.get('embed_dim')}, the tensors {config.embed_dim}")
    if wrong:
        raise UserError(
            f"open_clip_config.json and the tensors disagree: open_clip_config.json says {'; '.join(wrong)}"
        )
    config = dataclasses.replace(config, **changed)
    return config, _preprocess(config, json.get("preprocess_cfg") or {})


def _supported(name: str, given: Json, known) -> None:
    for option, value in given.items():
        if value and option not in known and option not in UNUSED[name] and HARMLESS[name].get(option) != value:
            raise UserError(f"open_clip_config.json says {name}.{option}={value!r}, which is not supported")


def _vision(cfg: VisionConfig, json: Json, wrong: list[str]) -> VisionConfig:
    size = json["image_size"]
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    grid = (height // cfg.patch_size, width // cfg.patch_size)
    if grid[0] * grid[1] == cfg.pos_grid[0] * cfg.pos_grid[1]:
        cfg = dataclasses.replace(cfg, pos_grid=grid)
    else:
        rows = cfg.pos_grid[0] * cfg.pos_grid[1]
        wrong.append(f"image_size={size}, the tensors positions of {rows} patches of {cfg.patch_size} pixels")
    own = {"layers": cfg.depth, "width": cfg.width, "patch_size": cfg.patch_size}
    _compare("vision_cfg", json, own, cfg, wrong)
    return dataclasses.replace(cfg, num_heads=_heads(cfg.width // json["head_width"], cfg.width))


def _text(cfg: TextConfig, json: Json, wrong: list[str]) -> TextConfig:
    own = {"layers": cfg.depth, "width": cfg.width}
    own |= {"vocab_size": cfg.vocab_size, "context_length": cfg.context_length}
    _compare("text_cfg", json, own, cfg, wrong)
    return dataclasses.replace(cfg, num_heads=_heads(json["heads"], cfg.width))


def _compare(name: str, json: Json, own: dict[str, int], cfg, wrong: list[str]) -> None:
    wrong += [f"{name}.{key}={json[key]}, the tensors {value}" for key, value in own.items() if json[key] != value]
    if int(cfg.width * json["mlp_ratio"]) != cfg.mlp_dim:
        wrong.append(f"{name}.mlp_ratio={json['mlp_ratio']}, the tensors {cfg.mlp_dim / cfg.width}")


def _heads(heads: int, width: int) -> int:
    if heads < 1 or width % heads:
        raise UserError(f"open_clip_config.json means {heads} attention heads, which do not divide a width of {width}")
    return heads


def _preprocess(config: CLIPConfig, json: Json) -> Preprocess | None:
    if not json or not config.vision:
        return None
    if unknown := sorted(json.keys() - PREPROCESS):
        raise UserError(
            f"open_clip_config.json says preprocess_cfg.{unknown[0]}={json[unknown[0]]!r}, which is not known"
        )
    mode = json.get("resize_mode", "shortest")
    if mode not in CROP_MODES:
        raise UserError(f"open_clip_config.json says resize_mode={mode!r}; supported: {', '.join(CROP_MODES)}")
    size = json.get("size") or tuple(n * config.vision.patch_size for n in config.vision.pos_grid)
    plain = preprocess((size, size) if isinstance(size, int) else tuple(size))
    stats = {name: tuple(json[name]) for name in ("mean", "std") if name in json}
    filter_ = "bilinear" if json.get("interpolation") == "bilinear" else plain.interpolation  # "random" is for training
    return dataclasses.replace(plain, interpolation=filter_, crop_mode=CROP_MODES[mode], **stats)


# written


def files(card: Card, dtype: str) -> dict[str, dict[str, Any]]:
    """open_clip_config.json."""
    c, how = card.spec.config, card.spec.preprocess
    model: dict[str, Any] = {"embed_dim": c.embed_dim, "quick_gelu": c.quick_gelu}
    if c.keys == "custom":
        model["custom_text"] = True
    if c.vision:
        model["vision_cfg"] = _written_vision(c.vision)
    if c.text:
        model["text_cfg"] = _written_text(c.text)
    shown = {"mean": list(how.mean), "std": list(how.std), "interpolation": how.interpolation}
    mode = next((mode for mode, ours in CROP_MODES.items() if ours == how.crop_mode), "shortest")
    return {"open_clip_config.json": {"model_cfg": model, "preprocess_cfg": {**shown, "resize_mode": mode}}}


def _ratio(cfg: VisionConfig | TextConfig) -> dict[str, float]:
    ratio = cfg.mlp_dim / cfg.width
    return {} if ratio == 4 else {"mlp_ratio": ratio}


def _written_vision(cfg: VisionConfig) -> dict[str, Any]:
    sides = [n * cfg.patch_size for n in cfg.pos_grid]
    size = sides[0] if sides[0] == sides[1] else sides
    heads = {} if cfg.num_heads * 64 == cfg.width else {"head_width": cfg.width // cfg.num_heads}
    sizes = {"image_size": size, "layers": cfg.depth, "width": cfg.width, "patch_size": cfg.patch_size}
    return {**sizes, **heads, **_ratio(cfg)}


def _written_text(cfg: TextConfig) -> dict[str, Any]:
    return {
        "context_length": cfg.context_length,
        "vocab_size": cfg.vocab_size,
        "width": cfg.width,
        "heads": cfg.num_heads,
        "layers": cfg.depth,
        **_ratio(cfg),
    }
