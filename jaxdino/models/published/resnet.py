"""The published ResNets: torchvision's, and DINO's ResNet-50."""

from jaxdino.models.resnet import ResNetConfig
from jaxdino.models.spec import ModelSpec, Preprocess

_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _config(number: int) -> ResNetConfig:
    bottleneck = number >= 50
    factor = 4 if bottleneck else 1
    widths = tuple(factor * width for width in (64, 128, 256, 512))
    return ResNetConfig(bottleneck, _DEPTHS[number], widths, factor)


SPECS = (
    *(
        ModelSpec(
            name=f"resnet{number}",
            family="resnet",
            config=_config(number),
            preprocess=Preprocess(interpolation="bilinear"),
            pool="mean",
            hub=f"timm/resnet{number}.tv_in1k",
            page="https://github.com/pytorch/vision",
            last_layers=_DEPTHS[number][-1],
        )
        for number in _DEPTHS
    ),
    ModelSpec(
        name="dino_resnet50",
        family="dino_resnet",
        config=_config(50),
        pool="mean",
        page="https://github.com/facebookresearch/dino",
        last_layers=3,
    ),
)
