"""Tensor names of CLIP's published layouts.

Sources of the names: openai/CLIP clip/model.py; mlfoundations/open_clip src/open_clip/model.py (`CLIP`, and
`CustomTextCLIP`, whose text tower is under "text."); huggingface/transformers models/clip/modeling_clip.py.
"""

import numpy as np

from convert.ops import CONV, COPY, LINEAR
from convert.table import derive, drop, fuse, rule
from jaxdino.models.clip import CLIPConfig

V, T = "backbone.visual.", "backbone.text."
VB, TB = V + "blocks.{v}.", T + "blocks.{t}."


def _vision(c: CLIPConfig) -> bool:
    return c.vision is not None


def _text(c: CLIPConfig) -> bool:
    return c.text is not None


def _both(key: str, path: str, when) -> list:
    """Build the rules for the weight and bias of a linear layer."""
    return [rule(f"{key}.weight", f"{path}.kernel", LINEAR, when), rule(f"{key}.bias", f"{path}.bias", COPY, when)]


def _norm(key: str, path: str, when) -> list:
    return [rule(f"{key}.weight", f"{path}.scale", COPY, when), rule(f"{key}.bias", f"{path}.bias", COPY, when)]


def _scale() -> list:
    return [rule("logit_scale", "backbone.logit_scale", COPY, lambda c: c.logit_scale)]


def _projected(when):
    return lambda c: when(c) and c.embed_dim is not None


def _openai_block(key: str, path: str, when) -> list:
    return [
        *_norm(f"{key}ln_1", f"{path}norm1", when),
        rule(f"{key}attn.in_proj_weight", f"{path}attn.qkv.kernel", LINEAR, when),
        rule(f"{key}attn.in_proj_bias", f"{path}attn.qkv.bias", COPY, when),
        *_both(f"{key}attn.out_proj", f"{path}attn.proj", when),
        *_norm(f"{key}ln_2", f"{path}norm2", when),
        *_both(f"{key}mlp.c_fc", f"{path}mlp.fc1", when),
        *_both(f"{key}mlp.c_proj", f"{path}mlp.fc2", when),
    ]


def _openai_text(name: str, when) -> list:
    return [
        rule(f"{name}token_embedding.weight", f"{T}token_embedding", COPY, when),
        rule(f"{name}positional_embedding", f"{T}pos_embed", COPY, when),
        *_openai_block(f"{name}transformer.resblocks.{{t}}.", TB, when),
        *_norm(f"{name}ln_final", f"{T}ln_final", when),
        rule(f"{name}text_projection", f"{T}proj.kernel", COPY, _projected(when)),
    ]


OPEN_CLIP = [
    *_scale(),
    rule("visual.conv1.weight", f"{V}patch_embed.proj.kernel", CONV, _vision),
    rule("visual.class_embedding", f"{V}cls_token", COPY, _vision),
    rule("visual.positional_embedding", f"{V}pos_embed", COPY, _vision),
    *_norm("visual.ln_pre", f"{V}ln_pre", _vision),
    *_openai_block("visual.transformer.resblocks.{v}.", VB, _vision),
    *_norm("visual.ln_post", f"{V}ln_post", _vision),
    rule("visual.proj", f"{V}proj.kernel", COPY, _projected(_vision)),
    *_openai_text("", lambda c: c.text is not None and c.keys != "custom"),
    *_openai_text("text.", lambda c: c.text is not None and c.keys == "custom"),
    drop("*attn_mask", "the causal mask, which is recomputed"),
]


def _buffers(c: CLIPConfig) -> bool:
    return c.buffers and c.vision is not None and c.text is not None


OPENAI = [
    *OPEN_CLIP,
    derive("input_resolution", lambda c: np.array(c.vision.pos_grid[0] * c.vision.patch_size), None, _buffers),
    derive("context_length", lambda c: np.array(c.text.context_length), None, _buffers),
    derive("vocab_size", lambda c: np.array(c.text.vocab_size), None, _buffers),
]


def _hf_block(key: str, path: str, when) -> list:
    qkv = [f"{key}self_attn.{part}_proj" for part in "qkv"]
    return [
        *_norm(f"{key}layer_norm1", f"{path}norm1", when),
        fuse([f"{name}.weight" for name in qkv], f"{path}attn.qkv.kernel", LINEAR, when),
        fuse([f"{name}.bias" for name in qkv], f"{path}attn.qkv.bias", COPY, when),
        *_both(f"{key}self_attn.out_proj", f"{path}attn.proj", when),
        *_norm(f"{key}layer_norm2", f"{path}norm2", when),
        *_both(f"{key}mlp.fc1", f"{path}mlp.fc1", when),
        *_both(f"{key}mlp.fc2", f"{path}mlp.fc2", when),
    ]


def _ids(length: int) -> np.ndarray:
    return np.arange(length, dtype=np.int64)[None]


def _hf_vision(name: str, when) -> list:
    return [
        rule(f"{name}embeddings.class_embedding", f"{V}cls_token", COPY, when),
        rule(f"{name}embeddings.patch_embedding.weight", f"{V}patch_embed.proj.kernel", CONV, when),
        rule(f"{name}embeddings.position_embedding.weight", f"{V}pos_embed", COPY, when),
        derive(
            f"{name}embeddings.position_ids",
            lambda c: _ids(c.vision.pos_grid[0] * c.vision.pos_grid[1] + 1),
            None,
            lambda c: when(c) and c.buffers,
        ),
        *_norm(f"{name}pre_layrnorm", f"{V}ln_pre", when),
        *_hf_block(f"{name}encoder.layers.{{v}}.", VB, when),
        *_norm(f"{name}post_layernorm", f"{V}ln_post", when),
    ]


def _hf_text(name: str, when) -> list:
    return [
        rule(f"{name}embeddings.token_embedding.weight", f"{T}token_embedding", COPY, when),
        rule(f"{name}embeddings.position_embedding.weight", f"{T}pos_embed", COPY, when),
        derive(
            f"{name}embeddings.position_ids",
            lambda c: _ids(c.text.context_length),
            None,
            lambda c: when(c) and c.buffers,
        ),
        *_hf_block(f"{name}encoder.layers.{{t}}.", TB, when),
        *_norm(f"{name}final_layer_norm", f"{T}ln_final", when),
    ]


HF = [
    *_scale(),
    *_hf_vision("vision_model.", lambda c: c.vision is not None and c.keys != "bare"),
    *_hf_vision("", lambda c: c.vision is not None and c.keys == "bare"),
    rule("visual_projection.weight", f"{V}proj.kernel", LINEAR, _projected(_vision)),
    *_hf_text("text_model.", lambda c: c.text is not None and c.keys != "bare"),
    *_hf_text("", lambda c: c.text is not None and c.keys == "bare"),
    rule("text_projection.weight", f"{T}proj.kernel", LINEAR, _projected(_text)),
]

HEAD = [rule("head.weight", "head.kernel", LINEAR), rule("head.bias", "head.bias", COPY)]
"""Our classification head, in a separate file: no CLIP class includes one."""
