"""Tensor names of Segment Anything in Meta's code and in transformers.

Sources of the names: facebookresearch/segment-anything segment_anything/modeling/; huggingface/transformers
models/sam, whose published checkpoints hold the matrix of the random positions under two names.
"""

from convert.ops import CONV, COPY, LINEAR, Op
from convert.table import repeat, rule

CONV_TRANSPOSE = Op("conv_transpose", lambda a: a.transpose(2, 3, 0, 1), lambda a: a.transpose(2, 3, 0, 1))
"""torch.nn.ConvTranspose2d's (in, out, h, w) <-> our (h, w, in, out)."""

E, P, D = "backbone.image_encoder.", "backbone.prompt_encoder.", "backbone.mask_decoder."
MATRIX = P + "pe_layer.positional_encoding_gaussian_matrix"
ATTENTIONS = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")


def _both(key: str, path: str, op: Op = LINEAR) -> list:
    return [rule(f"{key}.weight", f"{path}.kernel", op), rule(f"{key}.bias", f"{path}.bias", COPY)]


def _norm(key: str, path: str) -> list:
    return [rule(f"{key}.weight", f"{path}.scale", COPY), rule(f"{key}.bias", f"{path}.bias", COPY)]


def _embedding(key: str, path: str) -> list:
    return [rule(f"{key}.weight", f"{path}.embedding", COPY)]


def _attention(name: str) -> list:
    return [r for part in ("q", "k", "v", "out") for r in _both(f"{name}.{part}_proj", f"backbone.{name}.{part}_proj")]


def _encoder(name: str, patches: str, blocks: str, norm: str, neck: tuple[str, str, str, str]) -> list:
    block, ours = f"{name}.{blocks}.{{i}}.", E + "blocks.{i}."
    return [
        *_both(f"{name}.{patches}", E + "patch_embed.proj", CONV),
        rule(f"{name}.pos_embed", E + "pos_embed", COPY),
        *[r for n in (1, 2) for r in _norm(f"{block}{norm}{n}", f"{ours}norm{n}")],
        *[r for part in ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2") for r in _both(block + part, ours + part)],
        *[rule(f"{block}attn.rel_pos_{axis}", f"{ours}attn.rel_pos_{axis}", COPY) for axis in "hw"],
        rule(f"{name}.neck.{neck[0]}.weight", E + "neck.0.kernel", CONV),
        *_norm(f"{name}.neck.{neck[1]}", E + "neck.1"),
        rule(f"{name}.neck.{neck[2]}.weight", E + "neck.2.kernel", CONV),
        *_norm(f"{name}.neck.{neck[3]}", E + "neck.3"),
    ]


def _prompts(points: str, masks: str, words: tuple[str, str, str, str, str]) -> list:
    conv1, norm1, conv2, norm2, conv3 = (f"prompt_encoder.{masks}.{word}" for word in words)
    return [
        *_embedding(f"prompt_encoder.{points}.{{p}}", P + "point_embeddings.{p}"),
        *_embedding("prompt_encoder.not_a_point_embed", P + "not_a_point_embed"),
        *_embedding("prompt_encoder.no_mask_embed", P + "no_mask_embed"),
        *_both(conv1, P + "mask_downscaling.0", CONV),
        *_norm(norm1, P + "mask_downscaling.1"),
        *_both(conv2, P + "mask_downscaling.3", CONV),
        *_norm(norm2, P + "mask_downscaling.4"),
        *_both(conv3, P + "mask_downscaling.6", CONV),
    ]


def _decoder(norm: str, last_norm: str, upscaling: tuple[str, str, str], mlp: tuple[str, str, str]) -> list:
    layer, last = "mask_decoder.transformer.layers.{j}", "mask_decoder.transformer.final_attn_token_to_image"
    heads = ("output_hypernetworks_mlps.{m}", "iou_prediction_head")
    return [
        *_embedding("mask_decoder.iou_token", D + "iou_token"),
        *_embedding("mask_decoder.mask_tokens", D + "mask_tokens"),
        *[r for name in ATTENTIONS for r in _attention(f"{layer}.{name}")],
        *[r for n in range(1, 5) for r in _norm(f"{layer}.{norm}{n}", f"backbone.{layer}.norm{n}")],
        *[r for n in (1, 2) for r in _both(f"{layer}.mlp.lin{n}", f"backbone.{layer}.mlp.lin{n}")],
        *_attention(last),
        *_norm(f"mask_decoder.transformer.{last_norm}", D + "transformer.norm_final_attn"),
        *_both(f"mask_decoder.{upscaling[0]}", D + "output_upscaling.0", CONV_TRANSPOSE),
        *_norm(f"mask_decoder.{upscaling[1]}", D + "output_upscaling.1"),
        *_both(f"mask_decoder.{upscaling[2]}", D + "output_upscaling.3", CONV_TRANSPOSE),
        *[
            r
            for head in heads
            for n, word in enumerate(mlp)
            for r in _both(f"mask_decoder.{head}.{word}", f"{D}{head}.layers.{n}")
        ],
    ]


META = (
    *_encoder("image_encoder", "patch_embed.proj", "blocks", "norm", ("0", "1", "2", "3")),
    *_prompts("point_embeddings", "mask_downscaling", ("0", "1", "3", "4", "6")),
    rule("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", MATRIX, COPY),
    *_decoder(
        "norm",
        "norm_final_attn",
        ("output_upscaling.0", "output_upscaling.1", "output_upscaling.3"),
        ("layers.0", "layers.1", "layers.2"),
    ),
)

IMAGE_MATRIX, PROMPT_MATRIX = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)
HF = (
    *_encoder(
        "vision_encoder",
        "patch_embed.projection",
        "layers",
        "layer_norm",
        ("conv1", "layer_norm1", "conv2", "layer_norm2"),
    ),
    *_prompts("point_embed", "mask_embed", ("conv1", "layer_norm1", "conv2", "layer_norm2", "conv3")),
    rule(IMAGE_MATRIX, MATRIX, COPY, lambda c: c.position_names != "prompt"),
    rule(PROMPT_MATRIX, MATRIX, COPY, lambda c: c.position_names == "prompt"),
    repeat(PROMPT_MATRIX, MATRIX, COPY, lambda c: c.position_names == "both"),
    *_decoder(
        "layer_norm",
        "layer_norm_final_attn",
        ("upscale_conv1", "upscale_layer_norm", "upscale_conv2"),
        ("proj_in", "layers.0", "proj_out"),
    ),
)

HEAD = _both("head", "head")
HF_HEAD = _both("classifier", "head")
"""A linear classification head on the mean of the embedding; no published SAM has one."""
