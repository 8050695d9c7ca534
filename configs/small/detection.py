"""Detection on two CPU cores, from random weights: a narrow ResNet of four blocks and a narrow head, 192 x 256 pixels.

python -m jaxdino.main --config=small/detection --config.data.name=voc --config.data.root=DIR

On the blood cells of BCCD (205, 87 and 72 images, VOC boxes, three classes), with other jobs on the two cores: 950
seconds; test mAP 0.431, mAP50 0.715; AP of platelets 0.101, red cells 0.494, white cells 0.699.
"""

from ml_collections import ConfigDict

from configs import common, detect

SHAPE = '{"bottleneck": false, "depths": [1, 1, 1, 1], "widths": [32, 64, 128, 256], "reduction": 1, "stem": 32}'


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with one stage that trains everything."""
    config = detect.get_config(model or "resnet18")
    config.model.weights = "random"
    if model in (None, ""):
        config.model.shape = SHAPE
    config.own_rates = dict(backbone=2e-3)
    config.objective.width, config.objective.convs = 64, 1
    config.data.update(batch_size=8, num_threads=2, image_size="192x256", augment="crop,hflip=0.5,vflip=0.5")
    config.stages = (
        common.stage(
            "full",
            epochs=16,
            rules=(("@head", "head"), ("@all", "backbone")),
            groups=dict(head=dict(lr=2e-3, weight_decay=1e-4), backbone=dict(lr=2e-3, weight_decay=1e-4)),
        ),
    )
    return config
