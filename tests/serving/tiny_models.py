"""A tiny model of each family, with parameters drawn so that an error in any of them shows in the output."""

import dataclasses
import math

import numpy as np

from convert.card import Card
from jaxdino.api.opening import face_of
from jaxdino.models.convnext import ConvNeXtConfig
from jaxdino.models.heads.calibration import Calibration
from jaxdino.models.heads.decoders import DPTHeadConfig, FPNHeadConfig, MLPHeadConfig
from jaxdino.models.heads.depth import DepthDPTHeadConfig, DepthLinearHeadConfig
from jaxdino.models.heads.detr import DETRHeadConfig
from jaxdino.models.heads.fcos import FCOSHeadConfig
from jaxdino.models.heads.linear import LinearHeadConfig
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.published import vit
from jaxdino.models.registry import get
from jaxdino.models.resnet import ResNetConfig
from jaxdino.models.spec import ModelSpec, Preprocess
from jaxdino.models.vit import ViTConfig

SMALL = Preprocess(size=(16, 24))
SHAPE = {"patch_size": 4, "width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
RESNET = ResNetConfig(bottleneck=False, depths=(1, 1, 1), widths=(8, 16, 32), reduction=1, stem=8)
MIXED = Calibration("isotonic", inputs=((0.1, 0.4, 0.4, 0.9),) * 3, outputs=((0.0, 0.2, 0.5, 1.0),) * 3)


def _spec(family: str, config, **how) -> ModelSpec:
    return ModelSpec(f"tiny_{family}", family, config, SMALL, **how)


VIT = _spec("dinov3", ViTConfig(**SHAPE, **vit.DINOV3))
DEEP = _spec("dinov3", dataclasses.replace(VIT.config, depth=4))
TIMM = dataclasses.replace(get("vit_tiny_patch16_224").config, **SHAPE, pos_grid=(4, 6))
STAGED = _spec("resnet", dataclasses.replace(RESNET, depths=(1,) * 4, widths=(8, 16, 32, 64)), pool="mean")
MODELS = {
    "vit": (_spec("vit", TIMM), LinearHeadConfig(3)),
    "dino": (_spec("dino", ViTConfig(**SHAPE, pos_grid=(3, 3), pos_offset=0.1)), LinearHeadConfig()),
    "dinov2": (
        _spec("dinov2", ViTConfig(**SHAPE, pos_grid=(5, 5), layer_scale=True, mask_token=True, swiglu=True)),
        LinearHeadConfig(3, "cls_mean"),
    ),
    "dinov3": (VIT, LinearHeadConfig(3, "cls", calibration=Calibration("temperature", (0.4,)))),
    "several": (VIT, LinearHeadConfig(3, "mean", thresholds=(0.5, 0.4, 0.3), calibration=MIXED)),
    "patches": (VIT, PatchesHeadConfig(3, blocks=2)),
    "mlp": (DEEP, MLPHeadConfig(3, width=8)),
    "fpn": (VIT, FPNHeadConfig(3, width=8)),
    "dpt": (DEEP, DPTHeadConfig(3, width=8)),
    "resnet fpn": (STAGED, FPNHeadConfig(3, source="stages", width=8)),
    "boxes": (VIT, FCOSHeadConfig(3, pyramid="patches", strides=(2, 4, 8, 16), width=8, convs=1)),
    "boxes by queries": (VIT, DETRHeadConfig(3, 1, "patches", queries=5, layers=2, width=8)),
    "depth": (VIT, DepthLinearHeadConfig(1, blocks=2, bins=8)),
    "depth dpt": (DEEP, DepthDPTHeadConfig(1, blocks=4, width=8)),
    "masks": (VIT, MaskQueriesHeadConfig(3, queries=5, layers=1)),
    "resnet masks": (
        STAGED,
        MaskQueriesHeadConfig(3, queries=5, form="stages", layers=3, width=8),
    ),
    "resnet": (_spec("resnet", RESNET, pool="mean"), LinearHeadConfig(3, "mean", calibration=MIXED)),
    "resnet boxes": (_spec("resnet", RESNET, pool="mean"), FCOSHeadConfig(3, strides=(4, 8, 16, 32), width=8, convs=1)),
    "convnext": (_spec("convnext", ConvNeXtConfig((1, 1), (8, 12)), pool="mean"), LinearHeadConfig()),
    "clip": (get("clip_tiny"), LinearHeadConfig()),
    "sam": (get("sam_tiny"), LinearHeadConfig()),
}
"""{name: the model, its head}."""


def model(name: str):
    """Return a loaded model with random parameters."""
    spec, head = MODELS[name]
    skeleton = spec.skeleton(head=head)
    rng = np.random.default_rng(0)
    flat = {path: _drawn(rng, path, entry) for path, entry in skeleton.entries.items()}
    names = ("ape", "bee", "cat")[: head.num_classes]
    card = Card(spec, head, names, digest="0" * 64)
    return face_of(card)(card, skeleton, flat)


def _drawn(rng: np.random.Generator, path: str, entry) -> np.ndarray:
    leaf = path.rpartition(".")[2]
    if leaf == "periods":
        return np.geomspace(1, 50, *entry.shape).astype(entry.dtype)
    if not np.issubdtype(entry.dtype, np.floating):
        return np.ones(entry.shape, entry.dtype)
    if leaf in ("scale", "gamma", "var", "scales"):
        return rng.uniform(0.5, 1.5, entry.shape).astype(entry.dtype)
    width = math.sqrt(math.prod(entry.shape[:-1])) if leaf == "kernel" else 3
    return (rng.standard_normal(entry.shape) / width).astype(entry.dtype)


def with_one_changed(given, path: str):
    """Return a model in which one parameter differs a little."""
    flat = dict(given.flat) | {path: np.asarray(given.flat[path]) * 1.01}
    return type(given)(dataclasses.replace(given.card), given.skeleton, flat)
