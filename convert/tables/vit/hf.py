"""Write a ViT for transformers: config.json, and the backbone's prefix in the classification classes."""

from typing import Any

from convert.card import Card
from convert.family import Spelling
from convert.label_fields import label_fields
from convert.preprocess import to_json
from jaxdino.core.errors import UserError

_MEMORY = "transformers 5 in memory (torch.save of its state_dict)"
_PARTS = (("q", "query"), ("k", "key"), ("v", "value"))
_VIT, _DINOV2 = "layers.{i}.", "encoder.layer.{i}."
SPELLINGS = (
    Spelling(
        _MEMORY,
        (f"{_VIT.format(i=0)}attention.q_proj.weight", "embeddings.patch_embeddings.projection.weight"),
        (
            *((f"{_VIT}attention.{own}_proj", f"{_DINOV2}attention.attention.{word}") for own, word in _PARTS),
            (f"{_VIT}attention.o_proj", f"{_DINOV2}attention.output.dense"),
            (f"{_VIT}mlp.fc1", f"{_DINOV2}intermediate.dense"),
            (f"{_VIT}mlp.fc2", f"{_DINOV2}output.dense"),
            *((f"{_VIT}layernorm_{when}", f"{_DINOV2}layernorm_{when}") for when in ("before", "after")),
        ),
    ),
    Spelling(
        _MEMORY,
        (f"{_DINOV2.format(i=0)}attention.q_proj.weight", "embeddings.patch_embeddings.projection.weight"),
        (
            *((f"{_DINOV2}attention.{own}_proj", f"{_DINOV2}attention.attention.{word}") for own, word in _PARTS),
            (f"{_DINOV2}attention.o_proj", f"{_DINOV2}attention.output.dense"),
            ((f"{_DINOV2}mlp.gate_proj", f"{_DINOV2}mlp.up_proj"), f"{_DINOV2}mlp.weights_in"),
            (f"{_DINOV2}mlp.down_proj", f"{_DINOV2}mlp.weights_out"),
        ),
    ),
    Spelling(
        _MEMORY,
        ("model.layer.0.norm1.weight", "embeddings.patch_embeddings.weight"),
        (("model.layer.{i}", "layer.{i}"),),
    ),
)
"""ViT's, DINOv2's (with and without registers) and DINOv3's.

Source: huggingface/transformers conversion_mapping.py (`ViTModel`, `Dinov2Model`, `dinov3_vit`).
"""

PREFIXES = {"vit": "vit", "dinov2": "dinov2", "dinov2_with_registers": "dinov2_with_registers"}
"""model_type -> the attribute that holds the backbone in transformers' `ForImageClassification` class."""

CLASSES = {
    "vit": ("ViTModel", "ViTForImageClassification", "cls"),
    "dinov2": ("Dinov2Model", "Dinov2ForImageClassification", "cls_mean"),
    "dinov2_with_registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersForImageClassification",
        "cls_mean",
    ),
    "dinov3_vit": ("DINOv3ViTModel", None, None),
}
"""model_type -> backbone class, classification class, and the pooling of its head."""


def model_type(card: Card) -> str:
    """Return transformers' model_type."""
    family, c = card.spec.family, card.spec.config
    if family == "dinov2":  # of two classes without registers, the one that resamples positions as the model does
        return "dinov2_with_registers" if c.num_registers or c.pos_antialias else "dinov2"
    return {"dino": "vit", "vit": "vit", "dinov3": "dinov3_vit"}[family]


def head_class(card: Card) -> str | None:
    """Return transformers' classification class, if the model has a head and the class has the same pooling."""
    _, name, pool = CLASSES[model_type(card)]
    return name if card.num_classes and pool == card.pool else None


def prefix(card: Card) -> str | None:
    """Return the prefix of the backbone's keys in the classification class; None if there is no such class."""
    return f"{PREFIXES[model_type(card)]}." if head_class(card) else None


def notes(card: Card) -> list[str]:
    """Return notes on the defaults of transformers' classes."""
    c, said = card.spec.config, []
    if model_type(card) != "vit":
        return said
    if not (c.pooler or head_class(card)):
        said.append(
            "transformers' ViTModel adds a pooler with random weights: use last_hidden_state or add_pooling_layer=False"
        )
    if tuple(n * c.patch_size for n in c.pos_grid) != tuple(card.spec.preprocess.size):
        said.append("at other sizes than the position table's, transformers' ViT needs interpolate_pos_encoding=True")
    return said


def files(card: Card, dtype: str) -> dict[str, dict[str, Any]]:
    """Build config.json and preprocessor_config.json."""
    return {"config.json": config(card, dtype), "preprocessor_config.json": to_json(card.spec.preprocess)}


def config(card: Card, dtype: str) -> dict[str, Any]:
    """config.json."""
    c, kind = card.spec.config, model_type(card)
    fields: dict[str, Any] = {
        "architectures": [head_class(card) or CLASSES[kind][0]],
        "model_type": kind,
        "dtype": dtype,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.num_heads,
        "patch_size": c.patch_size,
        "num_channels": c.in_channels,
        "hidden_act": "gelu",
        "layer_norm_eps": c.norm_eps,
        "image_size": _image_size(card),
        **_KINDS[kind](c),
    }
    if head_class(card):
        fields |= label_fields(card)
    return fields


def _image_size(card: Card) -> int | list[int]:
    c = card.spec.config
    size = card.spec.preprocess.size
    if c.positions == "learned":
        size = tuple(side * c.patch_size for side in c.pos_grid)
    return size[0] if size[0] == size[1] else list(size)


def _dinov2(c) -> dict[str, Any]:
    """Return DINOv2's fields; its class computes the hidden width from an integer ratio.

    Raises:
      UserError: if no integer ratio gives the hidden width.
    """
    hidden = _swiglu_dim if c.swiglu else int
    ratio = next((n for n in range(1, 65) if hidden(c.width * n) == c.mlp_dim), None)
    if ratio is None:
        what = "a SwiGLU" if c.swiglu else "a feed-forward layer"
        raise UserError(
            f"transformers' DINOv2 has {what} whose width follows from an integer mlp_ratio; none gives "
            f"{c.mlp_dim} for {c.width}: export to meta or timm"
        )
    return {"mlp_ratio": ratio, "use_swiglu_ffn": c.swiglu, "qkv_bias": c.qkv_bias}


def _swiglu_dim(hidden: int) -> int:
    """Return two thirds of `hidden`, rounded up to a multiple of 8."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


_KINDS = {
    "vit": lambda c: {"intermediate_size": c.mlp_dim, "qkv_bias": c.qkv_bias},
    "dinov2": lambda c: _dinov2(c) | {"use_mask_token": c.mask_token},
    "dinov2_with_registers": lambda c: _dinov2(c) | {"num_register_tokens": c.num_registers},
    "dinov3_vit": lambda c: {
        "intermediate_size": c.mlp_dim,
        "use_gated_mlp": c.swiglu,
        "hidden_act": "silu" if c.swiglu else "gelu",
        "query_bias": c.qkv_bias,
        "key_bias": c.qkv_bias and not c.mask_k_bias,
        "value_bias": c.qkv_bias,
        "num_register_tokens": c.num_registers,
        "rope_theta": c.rope_base,
    },
}
