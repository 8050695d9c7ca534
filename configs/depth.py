"""Depth: the distance of every pixel in metres, from a head on a backbone that is first frozen, then trained with it.

    python -m jaxdino.main --config=configs/depth.py
    python -m jaxdino.main --config=configs/depth.py:dinov2_vits14 --config.data.root=DIR

DIR holds images/ and depth/, 16-bit PNGs in millimetres or .npy files in metres (docs/depth.md). `objective.head=dpt`
takes the DPT decoder in place of the linear head. The stages may be those of another config:
`config.stages = gradual.get_config(model).stages`.

Without a model, the embedded backbone of the digits measures generated scenes of spheres.
"""

from ml_collections import ConfigDict

from configs import common
from jaxdino.objectives.depth_settings import Ranging


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with two stages: the head, then everything."""
    config = common.get_config(model)
    config.objective = dict(name="depth", **common.defaults(Ranging))
    config.data.name, config.data.batch_size = "depth", 16
    config.data.augment = "none,hflip=0.5,brightness=0.2,contrast=0.2,saturation=0.2"
    config.data.crop_mode = "squash"  # all of the image, in training and in evaluation
    config.own_rates = dict(backbone=5e-4)
    config.optimizer.schedule.warmup_epochs = 1.0
    head = dict(lr=1e-3, weight_decay=1e-4)
    config.stages = (
        common.stage(
            "head",
            epochs=10,
            rules=(("@head", "head"), ("@all", "frozen")),
            groups=dict(head=head, frozen=dict(frozen=True)),
        ),
        common.stage(
            "full",
            epochs=20,
            rules=(("@head", "head"), ("@all", "backbone")),
            groups=dict(head=head, backbone=dict(lr=5e-5, layer_decay=0.8)),
        ),
    )
    if config.model.name == common.DIGITS_MODEL:
        config.data.name, config.data.image_size = "spheres", 64
        config.stages[1].groups.backbone.lr = 5e-4
    return config
