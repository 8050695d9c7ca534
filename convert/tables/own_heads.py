"""Names of our own dense heads in PyTorch: the paths of our modules, with PyTorch's names of the leaves.

docs/torch_heads.md has modules that these names fit.
"""

import re

from convert.ops import CONV, COPY, COUNT, LINEAR, POINTWISE, TRANSPOSED, Op
from convert.table import Rule, rule
from convert.tables.depth import TRANSPOSED as SPREAD
from jaxdino.models.heads import HeadConfig
from jaxdino.models.heads.decoders import FPNHeadConfig, MLPHeadConfig
from jaxdino.models.heads.detr import DETRHeadConfig
from jaxdino.models.heads.fcos import FCOSHeadConfig
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig
from jaxdino.models.spec import ModelSpec

PREFIX = "dense_head."
HEADS = (FCOSHeadConfig, DETRHeadConfig, MLPHeadConfig, FPNHeadConfig, MaskQueriesHeadConfig)
LAST = {"cls_out.weight": 0, "cls.weight": 0, "conv_seg.weight": 0, "class_predictor.weight": 1}
"""{the layer that gives classes: its outputs that are no class}."""
ON_MAPS = r"doubled|(pyramid|pixels)\.lateral\.\d+|linear\.\d+|fuse|conv_seg"
"""Linear layers on feature maps, 1 x 1 convolutions in PyTorch."""
LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def rules(head: HeadConfig, spec: ModelSpec) -> tuple[Rule, ...]:
    """Return the rules of a head on a model."""
    entries = spec.skeleton(head=head).entries
    paths = [path.removeprefix("head.") for path in entries if path.startswith("head.")]
    return tuple(_rule(path, entries[f"head.{path}"].shape) for path in paths)


def _rule(path: str, shape: tuple[int, ...]) -> Rule:
    key, op = _named(path, shape)
    return rule(PREFIX + key, f"head.{path}", op)


def _named(path: str, shape: tuple[int, ...]) -> tuple[str, Op]:
    """Return the name of a leaf in PyTorch, and its change of layout."""
    module, _, leaf = path.rpartition(".")
    if found := re.fullmatch(r"(upscale\.\d+)\.(conv1\.kernel|bias|conv2)", path):  # as transformers' EomtScaleLayer
        layer, what = found.groups()
        named = {"conv1.kernel": ("conv1.weight", TRANSPOSED), "bias": ("conv1.bias", COPY)}
        name, op = named.get(what, ("conv2.weight", CONV))
        return f"{layer}.{name}", op
    if leaf == "kernel" and module.startswith("simple.deconv"):
        return f"{module}.weight", SPREAD
    if leaf == "kernel":
        flat = POINTWISE if re.fullmatch(ON_MAPS, module) else LINEAR
        return f"{module}.weight", CONV if len(shape) == 4 else flat
    if leaf == "num_batches_tracked":
        return path, COUNT
    if path in ("query", "label", "level"):
        return f"{path}.weight", COPY
    return f"{module}.{LEAVES[leaf]}" if module else path, COPY


def classes(shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the number of classes of a head with these keys, 0 if they are not of one."""
    found = (shapes[PREFIX + name][0] - none for name, none in LAST.items() if PREFIX + name in shapes)
    return next(found, 0)
