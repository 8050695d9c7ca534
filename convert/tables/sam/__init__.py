"""Segment Anything."""

from convert.family import Family, Layout
from convert.tables.sam import hf, rules
from convert.tables.sam.detect import ANCHORS, detect, fit

FAMILY = Family(
    names=("sam",),
    anchors=ANCHORS,
    detect=detect,
    layouts={
        ("sam", "meta"): Layout(
            rules.META, tuple(rules.HEAD), head_file=lambda card: f"{card.spec.name}_linear_head.pth"
        ),
        ("sam", "hf"): Layout(
            rules.HF,
            tuple(rules.HF_HEAD),
            weights="model.safetensors",
            sharded=True,
            prefix=lambda card: None,
            files=hf.files,
        ),
    },
    shape=(
        "patch_size",
        "encoder_width",
        "depth",
        "num_heads",
        "mlp_dim",
        "window_size",
        "global_attn_indexes",
        "width",
    ),
    reference="convert.references.sam",
    fit=fit,
)
