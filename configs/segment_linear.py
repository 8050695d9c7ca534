"""Linear semantic segmentation: a class for every pixel, from a linear head on the patch tokens of a frozen backbone.

    python -m jaxdino.main --config=configs/segment_linear.py
    python -m jaxdino.main --config=configs/segment_linear.py:dinov3_vits16 --config.data.root=DIR

The head is batch norm and a 1 x 1 convolution, as in DINOv2's and DINOv3's linear protocol. DIR holds images/ and
masks/ with a classes.txt (docs/semantic_segmentation.md); `--config.data.name=voc` reads Pascal VOC. The stages may be
those of another config: `config.stages = gradual.get_config(model).stages`.

Without a model, the embedded backbone of the digits segments generated scenes of coloured shapes.
"""

from ml_collections import ConfigDict

from configs import common
from jaxdino.objectives.semantic_settings import Labelling


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with one stage of at most 30 epochs."""
    config = common.get_config(model)
    config.objective = dict(
        name="semantic", label_smoothing=config.objective.label_smoothing, **common.defaults(Labelling)
    )
    config.data.name = "masks"
    config.data.batch_size = 16
    config.stages = (
        common.stage(
            "linear",
            epochs=30,
            schedule=dict(warmup_epochs=1.0),
            rules=(("@head", "head"), ("@all", "frozen")),
            groups=dict(head=dict(lr=1e-3, weight_decay=1e-4), frozen=dict(frozen=True)),
        ),
    )
    if config.model.name == common.DIGITS_MODEL:
        config.data.name, config.data.image_size = "shapes", 64
        config.stages[0].groups.head.lr = 1e-2
    return config
