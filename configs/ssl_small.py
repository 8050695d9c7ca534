"""Self-distillation from random weights with few images on a small machine: a ResNet of 1.2 million parameters.

    python -m jaxdino.main --config=configs/ssl_small.py --config.data.root=DIR --config.evaluation.root=LABELLED

trains on every image below DIR at 64 pixels; labels only measure k-NN, on the class folders in LABELLED. Crops and
colour augmentation are stronger than for the digits of `configs/ssl.py`, and the features keep positions (`grid`).
Another model after the colon has its published shape. Results: docs/self_distillation.md.
"""

from ml_collections import ConfigDict

from configs import common, ssl
from jaxdino.data.recipe import View

SHAPE = '{"depths": [1, 1, 1], "widths": [64, 128, 256], "stem": 32}'
PHOTOS = View(
    size=64,
    scale=(0.3, 1.0),
    count=2,
    brightness=0.6,
    contrast=0.6,
    saturation=0.6,
    hue=0.15,
    gray_prob=0.4,
    blur_prob=0.2,
    blur_sigma=(0.1, 1.0),
)


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with one stage of 90 epochs."""
    config = ssl.get_config(model or "resnet18")
    if not model:
        config.model.shape = SHAPE
    ssl.fit_few_steps(config)
    config.data.update(name="images", batch_size=64, views=(common.view_settings(PHOTOS),))
    config.evaluation.update(every_epochs=5, pool="grid")
    (stage,) = config.stages
    stage.epochs = 90
    stage.schedule.warmup_epochs = 2.0
    for group in stage.groups.values():
        group.lr = 2e-3
    return config
