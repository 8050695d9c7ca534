"""Model arguments in timm's config.json and training checkpoints that keys and shapes do not show.

Sources: huggingface/pytorch-image-models timm/models/{vision_transformer,eva,convnext,resnet}.py (the classes'
arguments) and train.py (`--gp`, `--model-kwargs`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from convert.family import Hints
from jaxdino.core.errors import UserError
from jaxdino.models.spec import Config

KWARGS = "args.model_kwargs."
"""Keys of the command-line arguments in checkpoints of timm's train.py."""
_GELU = ("gelu",)
_NORM = ("layernorm",)
_SWIGLU = {"act_layer": ("silu", "swish")}

OURS: dict[str, dict[str, tuple]] = {
    "vit": {
        "act_layer": _GELU,
        "norm_layer": _NORM,
        "attn_layer": ("", "attn"),
        "block_fn": (),
        "mlp_layer": (),
        "pos_embed": ("learn",),
        "embed_norm_layer": (),
        "class_token": (True,),
        "final_norm": (True,),
        "pre_norm": (False,),
        "qk_norm": (False,),
        "scale_attn_norm": (False,),
        "scale_mlp_norm": (False,),
        "proj_bias": (True,),
    },
    "eva": {
        "norm_layer": _NORM,
        "rope_type": ("dinov3",),
        "rope_rotate_half": (True,),
        "rope_grid_offset": (0,),
        "use_rot_pos_emb": (True,),
        "use_abs_pos_emb": (False,),
        "use_post_norm": (False,),
        "use_pre_transformer_norm": (False,),
        "scale_mlp": (False,),
        "scale_attn_inner": (False,),
        "attn_type": ("eva",),
        "class_token": (True,),
    },
    "convnext": {
        "act_layer": _GELU,
        "norm_layer": _NORM,
        "output_stride": (32,),
        "conv_mlp": (False,),
        "use_grn": (False,),
        "head_norm_first": (False,),
        "stem_type": ("patch",),
    },
    "resnet": {
        "act_layer": ("relu",),
        "norm_layer": ("batchnorm", "batchnorm2d"),
        "output_stride": (32,),
        "aa_layer": ("",),
        "stem_type": ("",),
        "replace_stem_pool": (False,),
        "avg_down": (False,),
        "block_args": ({},),
    },
}
"""timm module -> arguments that change the network -> the supported values; None is always supported."""
CODES = {"dino": "vit", "dinov2": "vit", "dinov3": "eva", "dino_resnet": "resnet"}
"""Families whose timm module has another name."""
SHOWN = (
    *("img_size", "patch_size", "in_chans", "num_classes", "global_pool", "embed_dim", "depth", "num_heads"),
    *("mlp_ratio", "qkv_bias", "qkv_fused", "init_values", "no_embed_class", "reg_tokens", "num_reg_tokens"),
    *("fc_norm", "use_fc_norm", "swiglu_mlp", "swiglu_align_to", "rope_temperature", "norm_eps", "ref_feat_shape"),
    *("depths", "dims", "kernel_sizes", "ls_init_value", "head_hidden_size", "conv_bias", "layers", "channels"),
    *("stem_width", "base_width", "cardinality", "block_reduce_first", "down_kernel_size", "layer_scale_init_value"),
)
"""Arguments that are followed, or visible in keys and shapes."""
TRAINING = (
    *("drop_rate", "drop_path_rate", "drop_block_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate"),
    *("attn_drop_rate", "weight_init", "fix_init", "head_init_scale", "zero_init_last", "dynamic_img_size"),
    *("dynamic_img_pad", "strict_img_size", "rope_rescale_coords", "rope_shift_coords", "rope_jitter_coords"),
    *(
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "cache_dir",
        "scriptable",
        "exportable",
        "features_only",
    ),
)
"""Arguments that do not change the output of a trained network."""


def model_args(hints: Hints) -> dict[str, Any]:
    """Return the arguments of timm's class from config.json or the training checkpoint, without None values."""
    given: Mapping[str, Any] = hints.json.get("model_args") or {}
    trained = {key.removeprefix(KWARGS): v for key, v in hints.extras.items() if key.startswith(KWARGS)}
    return {name: value for name, value in {**trained, **given}.items() if value is not None}


def check(family: str, config: Config, hints: Hints) -> list[str]:
    """Return a note for each unknown argument.

    Raises:
      UserError: for an argument that makes a different network with the same keys.
    """
    code = CODES.get(family, family)
    ours = OURS.get(code, {})
    ours = ours | (_SWIGLU if getattr(config, "swiglu", False) else {})
    notes = []
    for name, value in model_args(hints).items():
        if name in ours:
            if not any(_same(value, one) for one in ours[name]):
                known = ", ".join(repr(one) for one in ours[name]) or "the class's own"
                raise UserError(
                    f"the file or its config.json says {name}={value!r} in timm's model_args; known: {known}"
                )
        elif name not in SHOWN and name not in TRAINING:
            notes.append(f"config.json: {name}={value!r} in model_args is not known and was not followed")
    return notes


def _same(value: Any, known: Any) -> bool:
    if isinstance(value, str) and isinstance(known, str):
        return value.casefold() == known
    return value == known


def said_pool(hints: Hints, known: Iterable[str]) -> str | None:
    """Return the pooling in config.json or the training checkpoint, None if absent.

    Raises:
      UserError: if it is not in `known`.
    """
    said = hints.json.get("global_pool") or model_args(hints).get("global_pool") or hints.extras.get("args.gp")
    if said and said not in known:
        raise UserError(
            f"the file or its config.json says global_pool={said!r}; only {' and '.join(known)} can be followed: "
            "--drop_head leaves the head aside"
        )
    return said or None


def averages(spec: Any, layout: str, widths: int, hints: Hints) -> tuple[str, tuple[str, ...]]:
    """Return mean pooling for the head of a convolutional network; see `convert.family.Family.pool`.

    Raises:
      UserError: if config.json names another pooling.
    """
    if layout == "timm" or hints.extras:
        said_pool(hints, ("avg",))
    return spec.pool, ()
