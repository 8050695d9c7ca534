"""Layouts of ResNets: torchvision's names, also used by timm and DINO, and transformers'.

Sources of the names: pytorch/vision torchvision/models/resnet.py; huggingface/pytorch-image-models
timm/models/resnet.py; facebookresearch/dino hubconf.py; huggingface/transformers models/resnet.
"""

import re
from collections.abc import Mapping
from typing import Any

from convert.assumptions import assume
from convert.card import Card
from convert.family import Family, Hints, Layout, Shapes, Spelling, Told
from convert.label_fields import label_fields
from convert.networks import words
from convert.ops import CONV, COPY, COUNT, LINEAR
from convert.preprocess import to_json, to_timm
from convert.table import MLP_HEAD, drop, rule
from convert.timm_args import averages
from jaxdino.core.errors import UserError
from jaxdino.models.heads.linear import POOLS
from jaxdino.models.registry import get
from jaxdino.models.resnet import ResNetConfig

B, S, P = "backbone.", "backbone.layer{s}.{i}.", "backbone.layer{p}.0.downsample."
DINO, PLAIN = "dino_resnet", "resnet"
ANCHORS = ("layer1.0.conv1.weight", "encoder.stages.0.layers.0.layer.0.convolution.weight")
MOCO = {"encoder_q", "encoder_k", "base_encoder", "momentum_encoder"}
"""Names of networks in MoCo's checkpoints; their images are resized with a bilinear filter."""
TIMM_NAMES = r"(resnet(18|26|34|50|101|152|200)|wide_resnet(50|101)_2)(\..*)?"
"""Supported timm architectures; others (anti-aliased, gated) can have the same keys."""


def _counts(config: ResNetConfig) -> bool:
    return config.counts


def _bottleneck(config: ResNetConfig) -> bool:
    return config.bottleneck


def _norm(key: str, path: str, when=lambda config: True) -> list:
    words = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    count = "num_batches_tracked"
    rules = [rule(f"{key}.{theirs}", f"{path}.{ours}", COPY, when) for theirs, ours in words.items()]
    return [*rules, rule(f"{key}.{count}", f"{path}.{count}", COUNT, lambda config: _counts(config) and when(config))]


def _step(conv: str, norm: str, path: str, n: str = "", when=lambda config: True) -> list:
    """Build the rules of a convolution and its batch norm, our `conv{n}` and `bn{n}`."""
    return [rule(f"{conv}.weight", f"{path}conv{n}.kernel", CONV, when), *_norm(norm, f"{path}bn{n}", when)]


def _shortcut(conv: str, norm: str) -> list:
    return [rule(f"{conv}.weight", P + "0.kernel", CONV), *_norm(norm, P + "1")]


TORCHVISION = (
    *_step("conv1", "bn1", B, "1"),
    *_step("layer{s}.{i}.conv1", "layer{s}.{i}.bn1", S, "1"),
    *_step("layer{s}.{i}.conv2", "layer{s}.{i}.bn2", S, "2"),
    *_step("layer{s}.{i}.conv3", "layer{s}.{i}.bn3", S, "3", _bottleneck),
    *_shortcut("layer{p}.0.downsample.0", "layer{p}.0.downsample.1"),
    drop("fc.[0-9]*", MLP_HEAD),  # MoCo v2 and v3, SimSiam
    drop("projection_head.*", MLP_HEAD),  # SwAV
    drop("prototypes*", "SwAV's prototypes, not part of the network"),
)
_HF_BLOCK = "encoder.stages.{t}.layers.{i}.layer."
_HF_SHORTCUT = "encoder.stages.{q}.layers.0.shortcut."
HF = (
    *_step("embedder.embedder.convolution", "embedder.embedder.normalization", B, "1"),
    *_step(_HF_BLOCK + "0.convolution", _HF_BLOCK + "0.normalization", S, "1"),
    *_step(_HF_BLOCK + "1.convolution", _HF_BLOCK + "1.normalization", S, "2"),
    *_step(_HF_BLOCK + "2.convolution", _HF_BLOCK + "2.normalization", S, "3", _bottleneck),
    *_shortcut(_HF_SHORTCUT + "convolution", _HF_SHORTCUT + "normalization"),
)


CHILDREN = Spelling(
    "torch.nn.Sequential(*resnet.children()), as in lightly",
    ("4.0.conv1.weight", "0.weight"),
    (("0", "conv1"), ("1", "bn1"), *((f"{n + 3}.{{i}}", f"layer{n}.{{i}}") for n in range(1, 5))),
)
"""Source: lightly-ai/lightly docs, examples/pytorch/*.py, which leave out the last child, `fc`."""


def _head(key: str) -> tuple:
    return (rule(f"{key}.weight", "head.kernel", LINEAR), rule(f"{key}.bias", "head.bias", COPY))


def detect(shapes: Shapes, hints: Hints) -> Told:
    """Detect which ResNet a checkpoint holds.

    The layouts of torchvision, timm and DINO have the same keys: config.json identifies timm's, a ResNet-50 without a
    classification head is assumed to be DINO's, and the user's choice has priority.

    Raises:
      UserError: if the checkpoint is not of the given model or layout, or is another network with a ResNet's keys.
    """
    config, hf = _config(shapes), ANCHORS[1] in shapes
    family, layout = (_family(shapes, config, hints), "hf") if hf else _same_keys(shapes, config, hints)
    if not hf and "classifier.1.weight" in shapes:
        raise UserError(
            "the checkpoint is a segmentation network (torchvision's FCN or DeepLab), whose ResNet has dilated "
            "convolutions that no key shows: such networks are not supported"
        )
    if hints.layout not in (None, layout):
        raise UserError(f"the checkpoint is of the layout {layout!r} of {family}, not {hints.layout!r}")
    _check_json(hints.json)
    return Told(family, layout, config, unsaid=_unsaid(shapes, config, hints))


def _unsaid(shapes: Shapes, config: ResNetConfig, hints: Hints) -> tuple[str, ...]:
    if not _is_guess(shapes, config, hints):
        return ()
    why = "a ResNet-50 without a head; torchvision's are resized bilinearly"
    return (assume("DINO's ResNet-50, with images resized bicubically", why, "model=resnet50"),)


def _is_guess(shapes: Shapes, config: ResNetConfig, hints: Hints) -> bool:
    """Return whether the network is assumed to be DINO's only because of its shape."""
    published = config.bottleneck and config.depths == (3, 4, 6, 3) and config.width == 2048 and config.reduction == 4
    headless = "fc.weight" not in shapes and "classifier.1.weight" not in shapes
    other = (
        any(key.startswith(("fc.", "projection_head.", "prototypes")) for key in shapes) or words(hints.prefix) & MOCO
    )
    return not hints.json and not hints.model and hints.layout is None and headless and published and not other


def _family(shapes: Shapes, config: ResNetConfig, hints: Hints) -> str:
    if hints.model:
        return get(hints.model).family
    return DINO if hints.layout == "meta" or _is_guess(shapes, config, hints) else PLAIN


def _same_keys(shapes: Shapes, config: ResNetConfig, hints: Hints) -> tuple[str, str]:
    """Return (family, layout) of torchvision's keys."""
    family = _family(shapes, config, hints)
    if "architecture" in hints.json or hints.layout == "timm":
        return family, "timm"
    return family, "meta" if family == DINO else "torchvision"


def _config(shapes: Shapes) -> ResNetConfig:
    """Read the configuration from torchvision's or transformers' keys."""
    hf = ANCHORS[1] in shapes
    stem = "embedder.embedder.convolution.weight" if hf else "conv1.weight"
    block = "encoder.stages.{t}.layers.0.layer.{n}.convolution.weight" if hf else "layer{s}.0.conv{m}.weight"
    if stem not in shapes or shapes[stem][2:] != (7, 7):
        raise UserError(f"a ResNet without a first convolution of 7x7 ({stem}) is not known: this is a variant")
    depths = _depths(
        shapes, r"encoder\.stages\.(\d+)\.layers\.(\d+)\." if hf else r"layer(\d+)\.(\d+)\.", 0 if hf else 1
    )

    def convolution(stage: int, n: int) -> tuple[int, ...] | None:
        return shapes.get(block.format(t=stage, n=n, s=stage + 1, m=n + 1))

    bottleneck = convolution(0, 2) is not None
    last = [convolution(stage, 2 if bottleneck else 1) for stage in range(len(depths))]
    middle = convolution(0, 1)
    if None in (*last, middle):
        raise UserError("the checkpoint has the keys of a ResNet, but not the convolutions of its first blocks")
    if middle[1] != (last[0][1] if bottleneck else middle[0]) or last[0][0] % last[0][1]:
        raise UserError("the checkpoint has grouped convolutions (a ResNeXt): only plain ResNets are known")
    return ResNetConfig(
        bottleneck=bottleneck,
        depths=depths,
        widths=tuple(shape[0] for shape in last),
        reduction=last[0][0] // last[0][1] if bottleneck else 1,
        stem=shapes[stem][0],
        in_channels=shapes[stem][1],
        counts=any(key.endswith("num_batches_tracked") for key in shapes),
    )


def _depths(shapes: Shapes, pattern: str, first: int) -> tuple[int, ...]:
    found: dict[int, int] = {}
    for key in shapes:
        if match := re.match(pattern, key):
            stage, block = int(match[1]), int(match[2])
            found[stage] = max(found.get(stage, 0), block + 1)
    if sorted(found) != list(range(first, first + len(found))):
        raise UserError(f"the checkpoint has blocks of the stages {sorted(found)}: some between them are missing")
    return tuple(found[stage] for stage in sorted(found))


def _check_json(json: Mapping[str, Any]) -> None:
    """Refuse a config.json that describes another forward pass with the same keys."""
    wanted = {"hidden_act": "relu", "downsample_in_first_stage": False, "downsample_in_bottleneck": False}
    for name, value in wanted.items():
        if json.get("model_type") == "resnet" and json.get(name, value) != value:
            raise UserError(f"config.json says {name}={json[name]!r}; only {value!r} is known for ResNets")
    architecture = json.get("architecture") or "resnet50"
    if not re.fullmatch(TIMM_NAMES, architecture):
        raise UserError(f"config.json says that this is timm's {architecture}, which is not a plain ResNet")


def hf_files(card: Card, dtype: str) -> dict[str, dict[str, Any]]:
    """Build config.json and preprocessor_config.json for transformers' ResNet classes."""
    c = card.spec.config
    fields: dict[str, Any] = {
        "architectures": ["ResNetForImageClassification" if card.num_classes else "ResNetModel"],
        "model_type": "resnet",
        "dtype": dtype,
        "num_channels": c.in_channels,
        "embedding_size": c.stem,
        "hidden_sizes": list(c.widths),
        "depths": list(c.depths),
        "layer_type": "bottleneck" if c.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }
    if card.num_classes:
        fields |= label_fields(card)
    return {"config.json": fields, "preprocessor_config.json": to_json(card.spec.preprocess)}


def timm_files(card: Card, dtype: str) -> dict[str, dict[str, Any]]:
    """Build config.json for `timm.create_model("local-dir:DIR")`; model_args has what differs from the architecture."""
    c = card.spec.config
    expansion = 4 if c.bottleneck else 1
    shape = {
        "layers": list(c.depths),
        "channels": [width // expansion for width in c.widths],
        "base_width": 64 * expansion // c.reduction,
    }
    published = card.spec.name.removeprefix("dino_")
    known = re.fullmatch(TIMM_NAMES, published) is not None
    config = {
        "architecture": published if known else "resnet50" if c.bottleneck else "resnet18",
        "num_classes": card.num_classes,
        "num_features": c.width,
        "global_pool": "avg",
        "model_args": {"in_chans": c.in_channels} | ({} if known else shape),
        "pretrained_cfg": to_timm(card, "conv1", "fc"),
    }
    return {"config.json": config}


def torchvision_notes(card: Card) -> list[str]:
    """Return a note for shapes that torchvision's constructors do not cover."""
    c, block = card.spec.config, "Bottleneck" if card.spec.config.bottleneck else "BasicBlock"
    if not card.spec.name.endswith("_custom") and c.in_channels == 3:
        return []
    usual = tuple(2**n * (256 if c.bottleneck else 64) for n in range(4))
    same = (c.widths, c.stem, c.in_channels) == (usual, 64, 3)
    group = f", width_per_group={256 // c.reduction}" if c.bottleneck and c.reduction != 4 else ""
    built = f"torchvision's ResNet({block}, {list(c.depths)}{group})"
    more = "" if same else f" with a stem of {c.stem}, widths of {list(c.widths)} and {c.in_channels} channels"
    return [f"a state dict alone, of a shape that has no name: build {built}{more}, then load it"]


def fit(card: Card, flat: Mapping[str, Any], layout: str) -> tuple[Card, dict, list[str]]:
    """Refuse shapes that a layout's class cannot have.

    Raises:
      UserError: for bottlenecks with another width in transformers, and for another stem in timm.
    """
    c = card.spec.config
    if layout == "hf" and c.bottleneck and c.reduction != 4:
        raise UserError(f"transformers' bottlenecks are 4 times narrower than their output; these are {c.reduction}")
    if layout == "timm" and c.stem != 64:
        raise UserError(f"timm's ResNets have a first convolution of 64 channels; this one has {c.stem}")
    return card, {}, []


def _prefix(network: str):
    """Return the prefix function: the classes' heads see only the pooled map."""
    return lambda card: network if POOLS[card.pool].widths == 1 else None


def _head_file(card: Card) -> str | None:
    return None if POOLS[card.pool].widths == 1 else f"{card.spec.name}_linear_head.pth"


_KEYS = Layout(TORCHVISION, _head("fc"), head_file=_head_file, notes=torchvision_notes)
_TIMM = Layout(TORCHVISION, _head("fc"), "model.safetensors", prefix=_prefix(""), files=timm_files)
_HF = Layout(HF, _head("classifier.1"), "model.safetensors", sharded=True, prefix=_prefix("resnet."), files=hf_files)

FAMILY = Family(
    names=(PLAIN, DINO),
    anchors=ANCHORS,
    detect=detect,
    layouts={
        (PLAIN, "torchvision"): _KEYS,
        (PLAIN, "timm"): _TIMM,
        (PLAIN, "hf"): _HF,
        (DINO, "meta"): _KEYS,
        (DINO, "timm"): _TIMM,
        (DINO, "hf"): _HF,
    },
    shape=("bottleneck", "depths", "widths", "reduction", "stem"),
    reference="convert.references.resnet",
    fit=fit,
    pool=averages,
    spellings=(CHILDREN,),
    twins=(PLAIN, DINO),
)
