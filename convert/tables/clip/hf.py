"""Read and write the config.json of transformers' CLIP.

Source: huggingface/transformers models/clip/configuration_clip.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from convert.card import Card
from convert.preprocess import to_json
from jaxdino.core.errors import UserError
from jaxdino.models.clip import CLIPConfig, TextConfig, VisionConfig

Json = Mapping[str, Any]

TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "projection_dim": 512,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 32,
    "image_size": 224,
    "num_channels": 3,
    "projection_dim": 512,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
"""transformers' defaults for fields missing in config.json."""

TYPES = ("clip", "clip_text_model", "clip_vision_model")
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
OLD_EOS = 2
"""A wrong id in old configurations: transformers then uses the largest id instead."""


def settled(config: CLIPConfig, json: Json) -> CLIPConfig:
    """Complete the configuration, read from shapes, with config.json.

    Raises:
      UserError: if config.json describes another kind of model, or contradicts the tensors.
    """
    if json.get("model_type") not in TYPES:
        raise UserError(f"config.json says model_type={json.get('model_type')!r}; CLIP's are {', '.join(TYPES)}")
    if "CLIPForImageClassification" in json.get("architectures", ()):
        raise UserError(
            "CLIPForImageClassification pools patches before their norm, which is not supported: get its image tower "
            "with CLIPVisionModel.from_pretrained(...).save_pretrained(...)"
        )
    towers = {
        name: {**defaults, **_own(json, f"{name}_config")}
        for name, defaults in (("text", TEXT), ("vision", VISION))
        if getattr(config, name)
    }
    acts = {tower["hidden_act"] for tower in towers.values()}
    if len(acts) > 1 or not acts <= ACTIVATIONS.keys():
        raise UserError(f"config.json says hidden_act={' and '.join(map(repr, sorted(acts)))}; known: quick_gelu, gelu")
    wrong, changed = [], {"quick_gelu": ACTIVATIONS[acts.pop()]}
    if config.vision:
        changed["vision"] = _vision(config, towers["vision"], wrong)
    if config.text:
        changed["text"] = _text(config.text, towers["text"], wrong)
    dim = json.get("projection_dim", 512)
    if config.embed_dim not in (None, dim):
        wrong.append(f"projection_dim={dim}, the tensors {config.embed_dim}")
    if wrong:
        raise UserError("config.json and the tensors disagree: config.json says " + "; ".join(wrong))
    return dataclasses.replace(config, **changed)


def _own(json: Json, name: str) -> Json:
    """Return a tower's part of config.json; the older `..._config_dict` has priority, with all its defaults."""
    if json["model_type"] != "clip":
        return json
    defaults = TEXT if name == "text_config" else VISION
    older = json.get(f"{name}_dict")
    return {**(json.get(name) or {}), **({**defaults, **older} if older is not None else {})}


def _vision(config: CLIPConfig, json: Json, wrong: list[str]) -> VisionConfig:
    cfg = config.vision
    size = json["image_size"]
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    grid = (height // cfg.patch_size, width // cfg.patch_size)
    if grid[0] * grid[1] == cfg.pos_grid[0] * cfg.pos_grid[1]:
        cfg = dataclasses.replace(cfg, pos_grid=grid)
    _compare(json, wrong, _common(cfg), patch_size=cfg.patch_size, num_channels=config.in_channels)
    if grid != cfg.pos_grid:
        rows = cfg.pos_grid[0] * cfg.pos_grid[1]
        wrong.append(f"image_size={size}, the tensors positions of {rows} patches of {cfg.patch_size} pixels")
    return dataclasses.replace(cfg, **_heads_and_eps(cfg, json))


def _text(cfg: TextConfig, json: Json, wrong: list[str]) -> TextConfig:
    _compare(json, wrong, _common(cfg), vocab_size=cfg.vocab_size, max_position_embeddings=cfg.context_length)
    eot = json["eos_token_id"]
    if not isinstance(eot, int):
        raise UserError(f"config.json says eos_token_id={eot!r}; a number is needed")
    return dataclasses.replace(cfg, eot=None if eot == OLD_EOS else eot, **_heads_and_eps(cfg, json))


def _common(cfg: VisionConfig | TextConfig) -> dict[str, int]:
    return {"hidden_size": cfg.width, "num_hidden_layers": cfg.depth, "intermediate_size": cfg.mlp_dim}


def _compare(json: Json, wrong: list[str], common: dict[str, int], **more: int) -> None:
    wrong += [f"{k}={json[k]}, the tensors {own}" for k, own in (common | more).items() if json[k] != own]


def _heads_and_eps(cfg: VisionConfig | TextConfig, json: Json) -> dict[str, Any]:
    heads = json["num_attention_heads"]
    if not isinstance(heads, int) or heads < 1 or cfg.width % heads:
        raise UserError(f"config.json says num_attention_heads={heads!r}, which does not divide a width of {cfg.width}")
    return {"num_heads": heads, "norm_eps": json["layer_norm_eps"]}


# written


def files(card: Card, dtype: str) -> dict[str, dict[str, Any]]:
    """Build config.json and preprocessor_config.json."""
    c = card.spec.config
    written = {"config.json": {**_config(c), "dtype": dtype}}
    if c.vision:
        written["preprocessor_config.json"] = to_json(card.spec.preprocess)
    return written


def _config(c: CLIPConfig) -> dict[str, Any]:
    act = "quick_gelu" if c.quick_gelu else "gelu"
    dim = {"projection_dim": c.embed_dim} if c.embed_dim else {}
    projection = "WithProjection" if c.embed_dim else ""
    text = {"model_type": "clip_text_model", "hidden_act": act, **_text_fields(c.text), **dim} if c.text else {}
    vision = {"model_type": "clip_vision_model", "hidden_act": act, **_vision_fields(c), **dim} if c.vision else {}
    if text and vision:
        towers = {"text_config": text, "vision_config": vision}
        return {"architectures": ["CLIPModel"], "model_type": "clip", **dim, **towers}
    name = "CLIPTextModel" if text else "CLIPVisionModel"
    return {"architectures": [name + projection], **(text or vision)}


def _fields(c: VisionConfig | TextConfig) -> dict[str, Any]:
    return {**_common(c), "num_attention_heads": c.num_heads, "layer_norm_eps": c.norm_eps}


def _text_fields(c: TextConfig) -> dict[str, Any]:
    eot = OLD_EOS if c.eot is None else c.eot
    sizes = {"vocab_size": c.vocab_size, "max_position_embeddings": c.context_length}
    # transformers requires ids within the vocabulary, though it uses only the last one
    marks = {name: min(value, c.vocab_size - 1) for name, value in (("bos_token_id", 49406), ("pad_token_id", 1))}
    return {**_fields(c), **sizes, **marks, "eos_token_id": eot}


def _vision_fields(c: CLIPConfig) -> dict[str, Any]:
    sides = [n * c.vision.patch_size for n in c.vision.pos_grid]
    size = sides[0] if sides[0] == sides[1] else sides
    return {
        **_fields(c.vision),
        "patch_size": c.vision.patch_size,
        "image_size": size,
        "num_channels": c.in_channels,
    }
