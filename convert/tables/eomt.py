"""Names of EoMT's checkpoints: a ViT whose last blocks see query tokens, and the layers of classes and masks.

Source of the names: huggingface/transformers models/eomt/modeling_eomt.py (EomtForUniversalSegmentation, published as
tue-mps/*_eomt_*).
"""

from collections.abc import Container

from convert.ops import CONV, COPY, LINEAR, TRANSPOSED, UNBATCHED
from convert.table import Dropped, Rule, drop, fuse, rule

KEYS = ("query.weight", "class_predictor.weight", "upscale_block.block.0.conv1.weight")
MLPS = ("fc1", "gate_proj", "weights_in")
"""The first layer of a plain feed-forward layer, of a gated one, and of one written by transformers 5.15 or older."""
B, S, H, L = "backbone.", "backbone.blocks.{i}.", "head.", "layers.{i}."


def holds(keys: Container[str]) -> bool:
    """Return whether a checkpoint with these keys is one of EoMT on a ViT with a table of positions."""
    return all(key in keys for key in (*KEYS, "embeddings.position_embeddings.weight"))


def _pair(key: str, path: str, op=LINEAR) -> list[Rule]:
    return [rule(f"{key}.weight", f"{path}.kernel", op), rule(f"{key}.bias", f"{path}.bias", COPY)]


def _norm(key: str, path: str) -> list[Rule]:
    return [rule(f"{key}.weight", f"{path}.scale", COPY), rule(f"{key}.bias", f"{path}.bias", COPY)]


def table(upscale: int, mlp: str, registers: bool) -> list[Rule | Dropped]:
    """Return the rules of a checkpoint.

    Args:
      upscale: layers that double the resolution. mlp: the first layer of the feed-forward layers, one of `MLPS`.
      registers: whether there are register tokens.
    """
    qkv = [f"{L}attention.{part}_proj" for part in "qkv"]
    rules = [
        rule("embeddings.cls_token", B + "cls_token", COPY),
        rule("embeddings.position_embeddings.weight", B + "pos_embed", UNBATCHED),
        *_pair("embeddings.patch_embeddings.projection", B + "patch_embed.proj", CONV),
        *_norm("layernorm", B + "norm"),
        *_norm(L + "norm1", S + "norm1"),
        *_norm(L + "norm2", S + "norm2"),
        fuse([f"{key}.weight" for key in qkv], S + "attn.qkv.kernel", LINEAR),
        fuse([f"{key}.bias" for key in qkv], S + "attn.qkv.bias", COPY),
        *_pair(L + "attention.out_proj", S + "attn.proj"),
        *[rule(f"{L}layer_scale{n}.lambda1", f"{S}ls{n}.gamma", COPY) for n in (1, 2)],
        rule("query.weight", H + "query", COPY),
        *[one for name in ("fc1", "fc2", "fc3") for one in _pair(f"mask_head.{name}", H + name)],
        *_pair("class_predictor", H + "class_predictor"),
        drop("attn_mask_probs", "how often training masked attention; evaluation never does"),
        drop("criterion.empty_weight", "weights of the training loss"),
    ]
    if registers:
        rules.append(rule("embeddings.register_tokens", B + "register_tokens", COPY))
    else:
        rules.append(drop("embeddings.register_tokens", "there are none"))
    if mlp == "gate_proj":
        halves = [f"{L}mlp.{part}_proj" for part in ("gate", "up")]
        rules += [fuse([f"{key}.weight" for key in halves], S + "mlp.w12.kernel", LINEAR)]
        rules += [fuse([f"{key}.bias" for key in halves], S + "mlp.w12.bias", COPY)]
        rules += _pair(L + "mlp.down_proj", S + "mlp.w3")
    elif mlp == "weights_in":
        rules += [*_pair(L + "mlp.weights_in", S + "mlp.w12"), *_pair(L + "mlp.weights_out", S + "mlp.w3")]
    else:
        rules += [*_pair(L + "mlp.fc1", S + "mlp.fc1"), *_pair(L + "mlp.fc2", S + "mlp.fc2")]
    for n in range(upscale):
        theirs, ours = f"upscale_block.block.{n}.", f"{H}upscale.{n}."
        rules += [
            rule(theirs + "conv1.weight", ours + "conv1.kernel", TRANSPOSED),
            rule(theirs + "conv1.bias", ours + "bias", COPY),
            rule(theirs + "conv2.weight", ours + "conv2", CONV),
            *_norm(theirs + "layernorm2d", ours + "norm"),
        ]
    return rules
