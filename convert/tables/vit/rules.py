"""Tensor names of the ViT families' published layouts.

Sources of the names: facebookresearch/dino vision_transformer.py; facebookresearch/dinov2 and dinov3
models/vision_transformer.py; huggingface/pytorch-image-models timm/models/{vision_transformer,eva}.py;
huggingface/transformers models/{vit,dinov2,dinov2_with_registers,dinov3_vit} as their checkpoints are published
(transformers 5 renames some keys in memory and writes the published names back).
"""

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy)
import numpy as np

from convert.ops import CONV, COPY, LINEAR, TOKEN
from convert.table import MLP_HEAD, absent, derive, drop, fuse, rule
from jaxdino.models.rope import rope_periods

B, S = "backbone.", "backbone.blocks.{i}."


def _both(key: str, path: str, op=LINEAR, when=lambda c: True) -> list:
    """Build the rules for the weight and bias of a linear layer or convolution."""
    return [
        rule(f"{key}.weight", f"{path}.kernel", op, when),
        rule(f"{key}.bias", f"{path}.bias", COPY, when),
    ]


def _norm(key: str, path: str, when=lambda c: True) -> list:
    return [
        rule(f"{key}.weight", f"{path}.scale", COPY, when),
        rule(f"{key}.bias", f"{path}.bias", COPY, when),
    ]


def _fused(keys: tuple, path: str, weight="{}.weight", bias="{}.bias", when=lambda c: True, bias_when=None) -> list:
    """Build the rules for linear layers that are fused into one."""
    return [
        fuse([key and weight.format(key) for key in keys], f"{path}.kernel", LINEAR, when),
        fuse([key and bias.format(key) for key in keys], f"{path}.bias", COPY, bias_when or when),
    ]


def _learned(config) -> bool:
    return config.positions == "learned"


def _rope(config) -> bool:
    return config.positions == "rope"


def _registers(config) -> bool:
    return config.num_registers > 0


def _mask_token(config) -> bool:
    return config.mask_token


def _scaled(config) -> bool:
    return config.layer_scale


def _mlp(config) -> bool:
    return not config.swiglu


def _swiglu(config) -> bool:
    return config.swiglu


def _periods(config) -> np.ndarray:
    return rope_periods(config.head_dim, config.rope_base)


def _no_registers(config) -> np.ndarray:
    """Return the empty register tensor that transformers' classes with registers keep if there are none."""
    return np.zeros((1, 0, config.width), np.float32)


def _bias_mask(config) -> np.ndarray:
    """Return DINOv3's buffer that zeroes the bias of the keys."""
    return np.repeat(np.array([1, 0, 1], np.float32), config.width)


HEAD = _both("head", "head")
"""The classification head with its name in Meta's and timm's modules."""

_TRUNK = [  # shared by Meta and timm
    rule("cls_token", B + "cls_token", COPY),
    rule("pos_embed", B + "pos_embed", COPY, _learned),
    *_both("patch_embed.proj", B + "patch_embed.proj", CONV),
    *_norm("blocks.{i}.norm1", S + "norm1"),
    rule("blocks.{i}.attn.qkv.weight", S + "attn.qkv.kernel", LINEAR),
    *_both("blocks.{i}.attn.proj", S + "attn.proj"),
    *_norm("blocks.{i}.norm2", S + "norm2"),
    *_both("blocks.{i}.mlp.fc1", S + "mlp.fc1", when=_mlp),
    *_both("blocks.{i}.mlp.fc2", S + "mlp.fc2", when=_mlp),
    *_norm("norm", B + "norm"),
]
_QKV_BIAS = rule("blocks.{i}.attn.qkv.bias", S + "attn.qkv.bias", COPY, lambda c: c.qkv_bias)
_GAMMA = [rule(f"blocks.{{i}}.ls{n}.gamma", f"{S}ls{n}.gamma", COPY, _scaled) for n in (1, 2)]
_PRETRAINING = [
    drop("head.[0-9]*", MLP_HEAD),  # MoCo v3
    drop("masked_embed", "the token of masked pre-training, unused by this family's encoder"),  # iBOT's student
    drop("decoder_*", "the decoder of masked auto-encoding, not part of the encoder"),
    drop("mask_token", "the token of masked pre-training, unused by this family's encoder"),
]

PLAIN = [*_TRUNK, _QKV_BIAS, *_PRETRAINING]
"""Meta's DINO and timm's (augreg, MAE) ViTs, which have the same keys."""

DINOV2_META = [
    *_TRUNK,
    _QKV_BIAS,
    *_GAMMA,
    rule("register_tokens", B + "register_tokens", COPY, _registers),
    rule("mask_token", B + "mask_token", COPY, _mask_token),
    *_both("blocks.{i}.mlp.w12", S + "mlp.w12", when=_swiglu),
    *_both("blocks.{i}.mlp.w3", S + "mlp.w3", when=_swiglu),
]

DINOV2_TIMM = [
    *_TRUNK,
    _QKV_BIAS,
    *_GAMMA,
    rule("reg_token", B + "register_tokens", COPY, _registers),
    *_both("blocks.{i}.mlp.fc1", S + "mlp.w12", when=_swiglu),
    *_both("blocks.{i}.mlp.fc2", S + "mlp.w3", when=_swiglu),
]

DINOV3_META = [
    *_TRUNK,
    _QKV_BIAS,
    derive(
        "blocks.{i}.attn.qkv.bias_mask",
        _bias_mask,
        like=S + "attn.qkv.bias",
        when=lambda c: c.qkv_bias and c.mask_k_bias,
    ),
    *_GAMMA,
    rule("storage_tokens", B + "register_tokens", COPY, _registers),
    rule("mask_token", B + "mask_token", COPY, _mask_token),
    rule("rope_embed.periods", B + "rope.periods", COPY, _rope),
    *_fused(("blocks.{i}.mlp.w1", "blocks.{i}.mlp.w2"), S + "mlp.w12", when=_swiglu),
    *_both("blocks.{i}.mlp.w3", S + "mlp.w3", when=_swiglu),
    *_norm("local_cls_norm", B + "local_cls_norm", lambda c: c.local_cls_norm),
]

DINOV3_TIMM = [
    *_TRUNK,
    fuse(
        ("blocks.{i}.attn.q_bias", None, "blocks.{i}.attn.v_bias"),
        S + "attn.qkv.bias",
        COPY,
        lambda c: c.qkv_bias,
    ),
    *[rule(f"blocks.{{i}}.gamma_{n}", f"{S}ls{n}.gamma", COPY, _scaled) for n in (1, 2)],
    rule("reg_token", B + "register_tokens", COPY, _registers),
    absent(B + "rope.periods", _periods, _rope),
    *_fused(("blocks.{i}.mlp.fc1_g", "blocks.{i}.mlp.fc1_x"), S + "mlp.w12", when=_swiglu),
    *_both("blocks.{i}.mlp.fc2", S + "mlp.w3", when=_swiglu),
]


_REGISTERS = "embeddings.register_tokens"


def _hf_encoder(tail: list) -> list:
    """The encoder of transformers' ViT and DINOv2 classes; they differ in the names around the norms and the MLP."""
    layer = "encoder.layer.{i}."
    names = [f"{layer}attention.attention.{part}" for part in ("query", "key", "value")]
    return [
        rule("embeddings.cls_token", B + "cls_token", COPY),
        rule("embeddings.position_embeddings", B + "pos_embed", COPY),
        *_both("embeddings.patch_embeddings.projection", B + "patch_embed.proj", CONV),
        *_fused(tuple(names), S + "attn.qkv", bias_when=lambda c: c.qkv_bias),
        *_both(f"{layer}attention.output.dense", S + "attn.proj"),
        *_norm("layernorm", B + "norm"),
        *tail,
    ]


VIT_HF = _hf_encoder(
    [
        *_norm("encoder.layer.{i}.layernorm_before", S + "norm1"),
        *_norm("encoder.layer.{i}.layernorm_after", S + "norm2"),
        *_both("encoder.layer.{i}.intermediate.dense", S + "mlp.fc1"),
        *_both("encoder.layer.{i}.output.dense", S + "mlp.fc2"),
        rule("embeddings.mask_token", B + "mask_token", TOKEN, _mask_token),
        *_both("pooler.dense", B + "pooler", when=lambda c: c.pooler),
    ],
)

DINOV2_HF = _hf_encoder(
    [
        *_norm("encoder.layer.{i}.norm1", S + "norm1"),
        *_norm("encoder.layer.{i}.norm2", S + "norm2"),
        *[rule(f"encoder.layer.{{i}}.layer_scale{n}.lambda1", f"{S}ls{n}.gamma", COPY, _scaled) for n in (1, 2)],
        rule("embeddings.mask_token", B + "mask_token", COPY, _mask_token),
        rule(_REGISTERS, B + "register_tokens", COPY, _registers),
        # the class with registers is the one that resamples positions with antialiasing
        derive(_REGISTERS, _no_registers, B + "cls_token", lambda c: not c.num_registers and c.pos_antialias),
        *_both("encoder.layer.{i}.mlp.fc1", S + "mlp.fc1", when=_mlp),
        *_both("encoder.layer.{i}.mlp.fc2", S + "mlp.fc2", when=_mlp),
        *_both("encoder.layer.{i}.mlp.weights_in", S + "mlp.w12", when=_swiglu),
        *_both("encoder.layer.{i}.mlp.weights_out", S + "mlp.w3", when=_swiglu),
    ],
)

_QKV = tuple(f"layer.{{i}}.attention.{part}_proj" for part in "qkv")
DINOV3_HF = [
    rule("embeddings.cls_token", B + "cls_token", COPY),
    rule("embeddings.mask_token", B + "mask_token", TOKEN, _mask_token),
    rule(_REGISTERS, B + "register_tokens", COPY, _registers),
    derive(_REGISTERS, _no_registers, B + "cls_token", lambda c: not c.num_registers),
    *_both("embeddings.patch_embeddings", B + "patch_embed.proj", CONV),
    absent(B + "rope.periods", _periods, _rope),
    *_norm("layer.{i}.norm1", S + "norm1"),
    fuse([f"{key}.weight" for key in _QKV], S + "attn.qkv.kernel", LINEAR),
    fuse(
        [f"{_QKV[0]}.bias", None, f"{_QKV[2]}.bias"],
        S + "attn.qkv.bias",
        COPY,
        lambda c: c.qkv_bias and c.mask_k_bias,
    ),
    fuse([f"{key}.bias" for key in _QKV], S + "attn.qkv.bias", COPY, lambda c: c.qkv_bias and not c.mask_k_bias),
    *_both("layer.{i}.attention.o_proj", S + "attn.proj"),
    *_norm("layer.{i}.norm2", S + "norm2"),
    *[rule(f"layer.{{i}}.layer_scale{n}.lambda1", f"{S}ls{n}.gamma", COPY, _scaled) for n in (1, 2)],
    *_both("layer.{i}.mlp.up_proj", S + "mlp.fc1", when=_mlp),
    *_both("layer.{i}.mlp.down_proj", S + "mlp.fc2", when=_mlp),
    *_fused(("layer.{i}.mlp.gate_proj", "layer.{i}.mlp.up_proj"), S + "mlp.w12", when=_swiglu),
    *_both("layer.{i}.mlp.down_proj", S + "mlp.w3", when=_swiglu),
    *_norm("norm", B + "norm"),
]

HF_HEAD = _both("classifier", "head")
"""transformers' classification head, at the top of its `ForImageClassification` classes."""
