"""The published ConvNeXts: DINOv3's."""

from jaxdino.models.convnext import ConvNeXtConfig
from jaxdino.models.spec import ModelSpec

_SIZES = {  # depths, widths
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
}

SPECS = tuple(
    ModelSpec(
        name=f"dinov3_convnext_{size}",
        family="convnext",
        config=ConvNeXtConfig(depths, widths),
        hub=f"facebook/dinov3-convnext-{size}-pretrain-lvd1689m",
        page="https://github.com/facebookresearch/dinov3",
        last_layers=depths[-1],
    )
    for size, (depths, widths) in _SIZES.items()
)
