"""Detection: a box around each object, from a dense head without anchors on a backbone that is trained with it.

    python -m jaxdino.main --config=configs/detect.py
    python -m jaxdino.main --config=configs/detect.py:resnet18 --config.data.name=voc --config.data.root=DIR

`data.name` is voc, coco, yolo or manifest (docs/data.md); `objective.head=detr` finds boxes with queries. The stages
may be those of another config: `config.stages = gradual.get_config(model).stages`.

Without a model, the embedded backbone of the digits finds generated coloured shapes.
"""

from ml_collections import ConfigDict

from configs import common
from jaxdino.objectives.detect_settings import Detecting


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with two stages: the head, then everything."""
    config = common.get_config(model)
    config.objective = dict(
        name="detect", label_smoothing=config.objective.label_smoothing, **common.defaults(Detecting)
    )
    config.data.name, config.data.batch_size, config.data.augment = "voc", 8, "crop"
    config.data.crop_mode = "squash"  # all of the image, in evaluation
    config.own_rates = dict(backbone=1e-3)
    config.optimizer.schedule.warmup_epochs = 1.0
    head = dict(lr=1e-3, weight_decay=1e-4)
    config.stages = (
        common.stage(
            "head",
            epochs=5,
            rules=(("@head", "head"), ("@all", "frozen")),
            groups=dict(head=head, frozen=dict(frozen=True)),
        ),
        common.stage(
            "full",
            epochs=40,
            rules=(("@head", "head"), ("@all", "backbone")),
            groups=dict(head=head, backbone=dict(lr=1e-4, layer_decay=0.9)),
        ),
    )
    if config.model.name == common.DIGITS_MODEL:
        config.data.name, config.data.image_size = "shapes", 64
    return config
