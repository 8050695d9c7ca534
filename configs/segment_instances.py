"""Instance and panoptic segmentation: a mask and a class for each object, from queries on a backbone.

    python -m jaxdino.main --config=configs/segment_instances.py
    python -m jaxdino.main --config=configs/segment_instances.py:resnet18 --config.data.root=DIR

DIR holds images/ and masks/, maps of object numbers (docs/instances.md); `--config.data.name=coco` reads polygons and
run lengths. On vision transformers the head is EoMT's, on other networks a small one like Mask2Former's. The stages may
be those of another config: `config.stages = gradual.get_config(model).stages`.

Without a model, the embedded backbone of the digits segments generated coloured shapes.
"""

from ml_collections import ConfigDict

from configs import common
from jaxdino.objectives.instances_settings import Masking


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with two stages: the head, then everything."""
    config = common.get_config(model)
    layers = 2 if config.model.name == common.DIGITS_MODEL else Masking.layers
    config.objective = dict(
        name="instances", label_smoothing=config.objective.label_smoothing, **common.defaults(Masking, layers=layers)
    )
    config.data.name, config.data.batch_size, config.data.augment = "masks", 8, "light"
    config.data.crop_mode = "squash"  # all of the image, in evaluation
    config.own_rates = dict(backbone=1e-3)
    config.optimizer.schedule.warmup_epochs = 1.0
    config.optimizer.clip_norm = 0.1  # as Mask2Former
    head = dict(lr=5e-4, weight_decay=0.05)
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
            groups=dict(head=head, backbone=dict(lr=1e-4, layer_decay=0.8)),
        ),
    )
    if config.model.name == common.DIGITS_MODEL:
        config.data.name, config.data.image_size = "shapes", 64
    return config
