"""Layouts of DINOv3's ConvNeXts: Meta's, transformers' and timm's.

Sources of the names: facebookresearch/dinov3 dinov3/models/convnext.py; huggingface/transformers
models/dinov3_convnext, with the names in its checkpoints (transformers 5 adds `model.` before `stages` in memory only);
huggingface/pytorch-image-models timm/models/convnext.py. The first ConvNeXts (facebookresearch/ConvNeXt, timm's
`fb_in1k`) have the same keys and the same forward pass.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from convert.card import Card
from convert.family import Family, Hints, Layout, Shapes, Spelling, Told
from convert.ops import CONV, COPY, LINEAR, Op
from convert.preprocess import to_json, to_timm
from convert.table import repeat, rule
from convert.timm_args import averages
from jaxdino.core.errors import UserError
from jaxdino.models.convnext import STEM, ConvNeXtConfig

EPS = 1e-6
"""Epsilon of the norms in Meta's code, and the default in timm's."""
D, S = "backbone.downsample_layers.", "backbone.stages.{s}.{i}."


def _both(key: str, path: str, op: Op) -> list:
    return [rule(f"{key}.weight", f"{path}.kernel", op), rule(f"{key}.bias", f"{path}.bias", COPY)]


def _norm(key: str, path: str) -> list:
    return [rule(f"{key}.weight", f"{path}.scale", COPY), rule(f"{key}.bias", f"{path}.bias", COPY)]


def _table(stem: str, down: str, block: str, words: tuple[str, str, str, str], norm: str) -> tuple:
    """Build the rules of a layout.

    Args:
      stem, down: names of the two layers of the stem and of the later downsampling. block: name of a block.
      words: within a block, the depthwise convolution, its norm and the two linear layers.
    """
    dwconv, norm1, pwconv1, pwconv2 = words
    return (
        *_both(f"{stem}.0", D + "0.0", CONV),
        *_norm(f"{stem}.1", D + "0.1"),
        *_norm(f"{down}.0", D + "{d}.0"),
        *_both(f"{down}.1", D + "{d}.1", CONV),
        *_both(f"{block}.{dwconv}", S + "dwconv", CONV),
        *_norm(f"{block}.{norm1}", S + "norm"),
        *_both(f"{block}.{pwconv1}", S + "pwconv1", LINEAR),
        *_both(f"{block}.{pwconv2}", S + "pwconv2", LINEAR),
        rule(f"{block}.gamma", S + "gamma", COPY),
        *_norm(norm, "backbone.norm"),
    )


def _twice(config: ConvNeXtConfig) -> bool:
    return config.norm_twice


META = (
    *_table(
        "downsample_layers.0",
        "downsample_layers.{d}",
        "stages.{s}.{i}",
        ("dwconv", "norm", "pwconv1", "pwconv2"),
        "norm",
    ),
    repeat("norms.{last}.weight", "backbone.norm.scale", COPY, _twice),
    repeat("norms.{last}.bias", "backbone.norm.bias", COPY, _twice),
)
"""Meta's list `norms` has only one entry, at the last stage: the final norm `norm` under a second name."""
HF = _table(
    "stages.0.downsample_layers",
    "stages.{d}.downsample_layers",
    "stages.{s}.layers.{i}",
    ("depthwise_conv", "layer_norm", "pointwise_conv1", "pointwise_conv2"),
    "layer_norm",
)
TIMM = _table(
    "stem",
    "stages.{d}.downsample",
    "stages.{s}.blocks.{i}",
    ("conv_dw", "norm", "mlp.fc1", "mlp.fc2"),
    "head.norm",
)

_STYLES = {  # layout -> the first block's depthwise convolution, the pattern of blocks, what names widths and channels
    "meta": ("stages.0.0.dwconv.weight", r"stages\.(\d+)\.(\d+)\.dwconv\.weight", "downsample_layers.0.0.weight"),
    "hf": (
        "stages.0.layers.0.depthwise_conv.weight",
        r"stages\.(\d+)\.layers\.(\d+)\.depthwise_conv\.weight",
        "stages.0.downsample_layers.0.weight",
    ),
    "timm": ("stages.0.blocks.0.conv_dw.weight", r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.weight", "stem.0.weight"),
}


def detect(shapes: Shapes, hints: Hints) -> Told:
    """Detect layout and shape of a ConvNeXt.

    Raises:
      UserError: if the checkpoint is not of the given layout, or is an unsupported ConvNeXt.
    """
    layout = next(name for name, (first, _, _) in _STYLES.items() if first in shapes)
    if hints.layout not in (None, layout):
        raise UserError(f"the checkpoint's keys are of the layout {layout!r}, not {hints.layout!r}")
    _, pattern, stem = _STYLES[layout]
    if len(shapes.get(stem, ())) != 4 or shapes[stem][2:] != (STEM, STEM):
        raise UserError(f"a ConvNeXt without a first convolution of {STEM}x{STEM} pixels ({stem}) is not known")
    if any(".grn." in key for key in shapes):
        raise UserError("the checkpoint is a ConvNeXt V2 (it has global response norms): only the first kind is known")
    json = hints.json if hints.json.get("model_type") == "dinov3_convnext" else {}
    if json.get("hidden_act", "gelu") != "gelu":
        raise UserError(f"config.json says hidden_act={json['hidden_act']!r}; only 'gelu' is known for ConvNeXts")
    depths, widths = _stages(shapes, pattern)
    config = ConvNeXtConfig(
        depths=depths,
        widths=widths,
        in_channels=shapes[stem][1],
        norm_eps=json.get("layer_norm_eps", _timm_eps(hints.json) if layout == "timm" else EPS),
        norm_twice=layout != "meta" or any(key.startswith("norms.") for key in shapes),
    )
    return Told("convnext", layout, config)


def _timm_eps(json: Mapping[str, Any]) -> float:
    return (json.get("model_args") or {}).get("norm_eps", EPS)


def _stages(shapes: Shapes, pattern: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (depths, widths) from the blocks' depthwise convolutions."""
    depths: dict[int, int] = {}
    widths: dict[int, int] = {}
    for key, shape in shapes.items():
        if found := re.fullmatch(pattern, key):
            stage, block = int(found[1]), int(found[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)
            widths[stage] = shape[0]
    if sorted(depths) != list(range(len(depths))):
        raise UserError(f"the checkpoint has blocks of the stages {sorted(depths)}: some between them are missing")
    return tuple(depths[s] for s in sorted(depths)), tuple(widths[s] for s in sorted(widths))


def hf_files(card: Card, dtype: str) -> dict[str, dict[str, Any]]:
    """Build config.json and preprocessor_config.json for transformers' DINOv3ConvNextModel."""
    c, size = card.spec.config, card.spec.preprocess.size
    config = {
        "architectures": ["DINOv3ConvNextModel"],
        "model_type": "dinov3_convnext",
        "dtype": dtype,
        "num_channels": c.in_channels,
        "hidden_sizes": list(c.widths),
        "depths": list(c.depths),
        "hidden_act": "gelu",
        "layer_norm_eps": c.norm_eps,
        "layer_scale_init_value": 1e-6,
        "drop_path_rate": 0.0,
        "image_size": size[0] if size[0] == size[1] else list(size),
    }
    return {"config.json": config, "preprocessor_config.json": to_json(card.spec.preprocess)}


def timm_files(card: Card, dtype: str) -> dict[str, dict[str, Any]]:
    """Build config.json for `timm.create_model("local-dir:DIR")`; unnamed shapes are written in full."""
    c, name = card.spec.config, card.spec.name
    word = name.removeprefix("dinov3_")
    published = word.removeprefix("convnext_") in ("tiny", "small", "base", "large")
    pretrained = to_timm(card, "stem.0", "head.fc")
    shape = {} if published else {"depths": list(c.depths), "dims": list(c.widths)}
    config = {
        "architecture": word if published else "convnext_tiny",
        "num_classes": card.num_classes,
        "num_features": c.width,
        "global_pool": "avg",
        "model_args": shape | {"in_chans": c.in_channels, "norm_eps": c.norm_eps},
        "pretrained_cfg": pretrained,
    }
    return {"config.json": config}


def _head_file(card: Card) -> str | None:
    """Return the head file: Meta's and timm's heads use norm(mean), which differs from our mean of normed patches."""
    return None if card.pool == "cls" else f"{card.spec.name}_linear_head.pth"


def meta_notes(card: Card) -> list[str]:
    """Return the arguments of Meta's class for a shape without a name in its hub."""
    c = card.spec.config
    if not card.spec.name.endswith("_custom") and c.in_channels == 3:
        return []
    words = f"in_chans={c.in_channels}, depths={list(c.depths)}, dims={list(c.widths)}"
    return [f"a state dict alone, of a shape that has no name: build Meta's ConvNeXt({words}), then load it"]


def fit(card: Card, flat: Mapping[str, Any], layout: str) -> tuple[Card, dict[str, Any], list[str]]:
    """Adapt the card to another layout: Meta's code has a fixed epsilon."""
    config = card.spec.config
    if layout != "meta" or config.norm_eps == EPS:
        return card, {}, []
    note = f"Meta's code has norm_eps = {EPS}, this model {config.norm_eps}: outputs will differ very slightly"
    spec = dataclasses.replace(card.spec, config=dataclasses.replace(config, norm_eps=EPS))
    return dataclasses.replace(card, spec=spec), {}, [note]


FAMILY = Family(
    names=("convnext",),
    anchors=tuple(first for first, _, _ in _STYLES.values()),
    detect=detect,
    layouts={
        ("convnext", "meta"): Layout(
            META, tuple(_both("head", "head", LINEAR)), head_file=_head_file, notes=meta_notes
        ),
        ("convnext", "hf"): Layout(
            HF,
            tuple(_both("classifier", "head", LINEAR)),
            weights="model.safetensors",
            sharded=True,
            prefix=lambda card: None,
            files=hf_files,
        ),
        ("convnext", "timm"): Layout(
            TIMM,
            tuple(_both("head.fc", "head", LINEAR)),
            weights="model.safetensors",
            prefix=lambda card: "" if card.pool == "cls" else None,
            files=timm_files,
        ),
    },
    shape=("depths", "widths"),
    reference="convert.references.convnext",
    fit=fit,
    pool=averages,
    spellings=(
        Spelling(
            "transformers 5 in memory (torch.save of its state_dict)",
            ("model.stages.0.layers.0.depthwise_conv.weight", "layer_norm.weight"),
            (("model.stages.{i}", "stages.{i}"),),  # huggingface/transformers conversion_mapping.py
        ),
    ),
)
