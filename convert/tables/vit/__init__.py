"""The ViTs: DINO, DINOv2, DINOv3 and timm's."""

from convert.card import Card
from convert.family import Family, Layout
from convert.tables.vit import hf, meta, rules, timm
from convert.tables.vit.detect import ANCHORS, detect
from convert.tables.vit.fit import fit
from convert.tables.vit.pool import pool


def _meta(table: list, head_file=lambda card: None) -> Layout:
    return Layout(tuple(table), tuple(rules.HEAD), head_file=head_file, notes=meta.notes)


def _wide_head(card: Card) -> str | None:
    """Return the head file: DINO's module only has a head on its class token."""
    return None if card.pool == "cls" else f"{card.spec.name}_linear_head.pth"


def _linear_head(card: Card) -> str:
    """Return the head file: DINOv2 and DINOv3 publish linear heads separately from their backbones."""
    return f"{card.spec.name}_linear{'4' if card.pool == 'cls4_mean' else ''}_head.pth"


def _timm(table: list) -> Layout:
    return Layout(tuple(table), tuple(rules.HEAD), weights="model.safetensors", prefix=timm.prefix, files=timm.files)


def _hf(table: list) -> Layout:
    head, file = tuple(rules.HF_HEAD), "model.safetensors"
    return Layout(tuple(table), head, file, sharded=True, prefix=hf.prefix, files=hf.files, notes=hf.notes)


FAMILY = Family(
    names=("dino", "dinov2", "dinov3", "vit"),
    anchors=ANCHORS,
    detect=detect,
    layouts={
        ("dino", "meta"): _meta(rules.PLAIN, _wide_head),
        ("dino", "timm"): _timm(rules.PLAIN),
        ("dino", "hf"): _hf(rules.VIT_HF),
        ("vit", "timm"): _timm(rules.PLAIN),
        ("vit", "hf"): _hf(rules.VIT_HF),
        ("dinov2", "meta"): _meta(rules.DINOV2_META, _linear_head),
        ("dinov2", "timm"): _timm(rules.DINOV2_TIMM),
        ("dinov2", "hf"): _hf(rules.DINOV2_HF),
        ("dinov3", "meta"): _meta(rules.DINOV3_META, _linear_head),
        ("dinov3", "timm"): _timm(rules.DINOV3_TIMM),
        ("dinov3", "hf"): _hf(rules.DINOV3_HF),
    },
    shape=(
        "patch_size",
        "width",
        "depth",
        "num_heads",
        "mlp_dim",
        "swiglu",
        "layer_scale",
        "num_registers",
        "positions",
    ),
    reference="convert.references.vit",
    fit=fit,
    pool=pool,
    twins=("dino", "vit"),
    spellings=hf.SPELLINGS,
)
