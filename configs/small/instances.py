"""Instance segmentation on two CPU cores, from random weights: a narrow ResNet of four blocks and a narrow head.

python -m jaxdino.main --config=small/instances --config.data.root=DIR

On the nuclei of DSB 2018 (docs/instances.md), with many other jobs on the two cores: 1763 seconds; test mask AP50
0.499, PQ 0.438, IoU 0.698.
"""

from ml_collections import ConfigDict

from configs import common, segment_instances
from configs.small.detection import SHAPE


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with one stage that trains everything."""
    config = segment_instances.get_config(model or "resnet18")
    config.model.weights = "random"
    if model in (None, ""):
        config.model.shape = SHAPE
    config.own_rates = dict(backbone=2e-3)
    config.objective.update(width=64, layers=2, queries=100, points=0)
    config.data.update(batch_size=8, num_threads=2, image_size=192, max_boxes=48)
    config.data.augment = "light,scale=(0.25,1.0),vflip=0.5,quarter=1.0"
    config.optimizer.clip_norm = 1.0
    config.stages = (
        common.stage(
            "full",
            epochs=10,
            rules=(("@head", "head"), ("@all", "backbone")),
            groups=dict(head=dict(lr=2e-3, weight_decay=0.01), backbone=dict(lr=2e-3, weight_decay=0.01)),
        ),
    )
    return config
