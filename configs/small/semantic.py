"""Semantic segmentation on two CPU cores, from random weights: a narrow ResNet of four blocks and a narrow pyramid.

python -m jaxdino.main --config=small/semantic --config.data.root=DIR

On the nuclei of DSB 2018 (docs/semantic_segmentation.md), with many other jobs on the two cores: 725 seconds; test
mIoU 0.899, IoU of nuclei 0.828.
"""

from ml_collections import ConfigDict

from configs import common, segment_semantic
from configs.small.detection import SHAPE


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with two stages: the decoder on a frozen backbone, then everything."""
    config = segment_semantic.get_config(model or "resnet18")
    config.model.weights = "random"
    if model in (None, ""):
        config.model.shape = SHAPE
    config.own_rates = dict(backbone=2e-3)
    config.objective.update(head="fpn", width=64)
    config.data.update(batch_size=8, num_threads=2, image_size=192)
    config.data.augment = "light,scale=(0.25,1.0),vflip=0.5,quarter=1.0"
    head = dict(lr=2e-3, weight_decay=1e-4)
    config.stages = (
        common.stage(
            "head",
            epochs=2,
            rules=(("@head", "head"), ("@all", "frozen")),
            groups=dict(head=head, frozen=dict(frozen=True)),
        ),
        common.stage(
            "full",
            epochs=8,
            rules=(("@head", "head"), ("@all", "backbone")),
            groups=dict(head=head, backbone=dict(lr=2e-3, weight_decay=1e-4)),
        ),
    )
    return config
