"""The published SAMs, and a small one for training from random weights."""

import dataclasses

from jaxdino.models.sam import SamConfig
from jaxdino.models.spec import ModelSpec, Preprocess

PREPROCESS = Preprocess(size=(1024, 1024), crop_pct=1.0, interpolation="bilinear")
"""ImageNet mean and standard deviation. (Prompted use resizes the longest side and pads: see `jaxdino.api.sam`.)"""


def _spec(letter: str, word: str, **fields) -> ModelSpec:
    return ModelSpec(
        name=f"sam_vit{letter}",
        family="sam",
        config=SamConfig(**fields),
        preprocess=PREPROCESS,
        hub=f"facebook/sam-vit-{word}",
        page="https://github.com/facebookresearch/segment-anything",
    )


SPECS = (
    _spec("b", "base"),
    _spec(
        "l",
        "large",
        encoder_width=1024,
        depth=24,
        num_heads=16,
        mlp_dim=4096,
        global_attn_indexes=(5, 11, 17, 23),
    ),
    _spec(
        "h",
        "huge",
        encoder_width=1280,
        depth=32,
        num_heads=16,
        mlp_dim=5120,
        global_attn_indexes=(7, 15, 23, 31),
    ),
)

TINY = ModelSpec(
    name="sam_tiny",
    family="sam",
    config=SamConfig(
        image_size=64,
        patch_size=4,
        encoder_width=64,
        depth=2,
        num_heads=2,
        mlp_dim=128,
        window_size=8,
        global_attn_indexes=(1,),
        width=64,
        mask_channels=8,
        decoder_heads=2,
        decoder_mlp_dim=128,
        iou_hidden_dim=64,
    ),
    preprocess=dataclasses.replace(PREPROCESS, size=(64, 64)),
)
"""A small model without published weights, for training from random weights."""
