"""Detect which SAM a checkpoint holds, from keys, shapes and config.json, and fit it to another layout."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from convert.assumptions import assume
from convert.card import Card
from convert.family import Hints, Shapes, Told
from convert.tables.sam.rules import IMAGE_MATRIX, PROMPT_MATRIX
from jaxdino.core.errors import UserError
from jaxdino.models.published.sam import PREPROCESS
from jaxdino.models.registry import MODELS
from jaxdino.models.sam import SamConfig

ANCHORS = ("image_encoder.patch_embed.proj.weight", "vision_encoder.patch_embed.projection.weight")
_KEYS = {  # layout -> the encoder, its patches, blocks and neck; the last mask convolution; the hidden IoU layer
    "meta": ("image_encoder", "patch_embed.proj", "blocks", "neck.0", "mask_downscaling.6", "layers.0"),
    "hf": ("vision_encoder", "patch_embed.projection", "layers", "neck.conv1", "mask_embed.conv3", "proj_in"),
}
META_HEADS, META_EPS = 8, 1e-5
"""Heads of the decoder and epsilon of its norms in Meta's code; Meta's checkpoints do not show them."""
CONFIG = "transformers' config.json"
_ACTIVATIONS = {"vision_config": "gelu", "prompt_encoder_config": "gelu", "mask_decoder_config": "relu"}


def detect(shapes: Shapes, hints: Hints) -> Told:
    """Detect layout and shape of a SAM; heads and windows follow from the tables of relative positions.

    Raises:
      UserError: if the checkpoint is not of the given layout, or is an unsupported SAM.
    """
    layout = "hf" if "vision_encoder.patch_embed.projection.weight" in shapes else "meta"
    if hints.layout not in (None, layout):
        raise UserError(f"the checkpoint's keys are of the layout {layout!r}, not {hints.layout!r}")
    json = hints.json if layout == "hf" and hints.json.get("model_type") == "sam" else {}
    _check_json(json)
    config = _config(_Shapes(shapes), layout, json)
    if hints.num_heads not in (None, config.num_heads):
        raise UserError(f"the relative positions are for {config.num_heads} attention heads, not for {hints.num_heads}")
    own = dataclasses.replace(PREPROCESS, size=(config.image_size,) * 2)
    assumed = _assumed(config, layout, json)
    return Told("sam", layout, config, own if own != PREPROCESS else None, assumed)


def _assumed(config: SamConfig, layout: str, json: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the assumptions about facts that only config.json holds, for an unpublished shape."""
    sizes = {(c.encoder_width, c.depth, c.width) for c in (s.config for s in MODELS.values() if s.family == "sam")}
    if json or (config.encoder_width, config.depth, config.width) in sizes:
        return ()
    lines = (assume(f"{config.decoder_heads} heads in the mask decoder", "as Meta's", file=CONFIG),)
    lines = () if layout == "meta" else lines  # Meta's code has no other number
    if config.global_attn_indexes == tuple(range(config.depth)):
        lines += (assume("no block attends in windows", "all tables of positions span the image", file=CONFIG),)
    return lines


class _Shapes(dict):
    """The checkpoint's shapes; a missing key raises UserError."""

    def __missing__(self, key: str):
        raise UserError(f"the checkpoint looks like a SAM, but has no {key}")


def _config(shapes: _Shapes, layout: str, json: Mapping[str, Any]) -> SamConfig:
    encoder, patches, blocks, neck, masks, hidden = _KEYS[layout]
    encoder_width, channels, patch, _ = shapes[f"{encoder}.{patches}.weight"]
    vision, decoder = json.get("vision_config", {}), json.get("mask_decoder_config", {})
    first = f"{encoder}.{blocks}.0"
    width = shapes[f"{encoder}.{neck}.weight"][0]
    layer = "mask_decoder.transformer.layers.0"
    fields = {
        "image_size": patch * shapes[f"{encoder}.pos_embed"][1],
        "patch_size": patch,
        "encoder_width": encoder_width,
        "depth": _count(shapes, rf"{encoder}\.{blocks}\.(\d+)\."),
        "num_heads": encoder_width // shapes[f"{first}.attn.rel_pos_h"][1],
        "mlp_dim": shapes[f"{first}.mlp.lin1.weight"][0],
        "encoder_eps": vision.get("layer_norm_eps", 1e-6),
        "width": width,
        "mask_channels": shapes[f"prompt_encoder.{masks}.weight"][1],
        "decoder_depth": _count(shapes, r"mask_decoder\.transformer\.layers\.(\d+)\."),
        "decoder_heads": decoder.get("num_attention_heads", META_HEADS),
        "decoder_mlp_dim": shapes[f"{layer}.mlp.lin1.weight"][0],
        "attention_downsample_rate": width // shapes[f"{layer}.cross_attn_token_to_image.q_proj.weight"][0],
        "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
        "iou_hidden_dim": shapes[f"mask_decoder.iou_prediction_head.{hidden}.weight"][0],
        "decoder_eps": decoder.get("layer_norm_eps", 1e-6) if layout == "hf" else META_EPS,
        "position_names": _position_names(shapes),
        "in_channels": channels,
    }
    rows = [shapes[f"{encoder}.{blocks}.{i}.attn.rel_pos_h"][0] for i in range(fields["depth"])]
    return SamConfig(**fields, **_windows(fields, rows, vision))


def _count(shapes: Shapes, pattern: str) -> int:
    return 1 + max((int(found[1]) for key in shapes if (found := re.match(pattern, key))), default=-1)


def _position_names(shapes: Shapes) -> str:
    if PROMPT_MATRIX not in shapes:
        return "image" if IMAGE_MATRIX in shapes else "both"
    return "both" if IMAGE_MATRIX in shapes else "prompt"


def _windows(fields: Mapping[str, Any], rows: list[int], vision: Mapping[str, Any]) -> dict[str, Any]:
    """Find window and global blocks from config.json, a matching published model, or the tables' lengths.

    If a window is as large as the image, the lengths are ambiguous, but results at the checkpoint's size are equal.
    """
    grid = fields["image_size"] // fields["patch_size"]
    known = [spec.config for spec in MODELS.values() if spec.family == "sam"]
    options = [
        (c.window_size, c.global_attn_indexes)
        for c in known
        if (c.encoder_width, c.depth) == (fields["encoder_width"], fields["depth"])
    ]
    if "window_size" in vision:
        options.insert(0, (vision["window_size"], tuple(vision["global_attn_indexes"])))
    for window, everywhere in options:
        if rows == [2 * (grid if i in everywhere or not window else window) - 1 for i in range(len(rows))]:
            return {"window_size": window, "global_attn_indexes": everywhere}
    windowed = {(length + 1) // 2 for length in rows if length != 2 * grid - 1}
    if len(windowed) > 1:
        raise UserError(f"the blocks have windows of {sorted(windowed)} patches; only one size is known")
    everywhere = tuple(i for i, length in enumerate(rows) if length == 2 * grid - 1)
    return {"window_size": windowed.pop() if windowed else 14, "global_attn_indexes": everywhere}


def _check_json(json: Mapping[str, Any]) -> None:
    """Refuse a Hugging Face folder whose config.json has settings that no published SAM has."""
    wanted = [(part, "hidden_act", word) for part, word in _ACTIVATIONS.items()]
    wanted += [("prompt_encoder_config", "layer_norm_eps", 1e-6), ("mask_decoder_config", "iou_head_depth", 3)]
    wanted += [("vision_config", "use_rel_pos", True), ("vision_config", "use_abs_pos", True)]
    size = json.get("vision_config", {}).get("image_size", 1024)
    wanted += [("prompt_encoder_config", "image_size", size)]
    for part, field, value in wanted:
        if part in json and json[part].get(field, value) != value:
            raise UserError(f"config.json says {part}.{field}={json[part][field]!r}; only {value!r} is known here")


def fit(card: Card, flat: Mapping[str, Any], layout: str) -> tuple[Card, dict[str, Any], list[str]]:
    """Adapt the card to another layout. Meta's code has fixed values where transformers' has configuration fields.

    Raises:
      UserError: if Meta's code would compute a different function.
    """
    c, notes = card.spec.config, []
    if layout != "meta":
        return card, {}, []
    if c.decoder_heads != META_HEADS:
        raise UserError(f"Meta's SAM has {META_HEADS} heads in its mask decoder, this model {c.decoder_heads}: use hf")
    own = {"decoder_eps": META_EPS, "encoder_eps": 1e-6}
    for field, value in own.items():
        if getattr(c, field) != value:
            notes.append(
                f"Meta's code has {field} = {value}, this model {getattr(c, field)}: outputs will differ very slightly"
            )
    return (
        dataclasses.replace(card, spec=dataclasses.replace(card.spec, config=dataclasses.replace(c, **own))),
        {},
        notes,
    )
