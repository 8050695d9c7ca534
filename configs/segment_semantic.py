"""Semantic segmentation with a decoder: a class for every pixel, the decoder first, then everything.

    python -m jaxdino.main --config=configs/segment_semantic.py
    python -m jaxdino.main --config=configs/segment_semantic.py:dinov3_vits16 --config.data.root=DIR
    python -m jaxdino.main --config=configs/segment_semantic.py:resnet18 --config.data.root=DIR

The decoder is SegFormer's (`objective.head=mlp`), a feature pyramid (`fpn`) or that of DPT (`dpt`), on blocks
of a ViT or the feature maps of a ResNet or a ConvNeXt; the losses are cross entropy and Dice
(docs/semantic_segmentation.md). DIR holds images/ and masks/ with a classes.txt; `--config.data.name=voc` reads Pascal
VOC. The stages may be those of another config: `config.stages = gradual.get_config(model).stages`.

Without a model, the embedded backbone of the digits segments generated scenes of coloured shapes.
"""

from ml_collections import ConfigDict

from configs import common
from jaxdino.objectives.semantic_settings import Labelling


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with two stages: the decoder, then everything."""
    config = common.get_config(model)
    given = common.defaults(Labelling, head="mlp", dice=1.0)
    config.objective = dict(name="semantic", label_smoothing=config.objective.label_smoothing, **given)
    config.data.name, config.data.batch_size = "masks", 16
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
            epochs=30,
            rules=(("@head", "head"), ("@all", "backbone")),
            groups=dict(head=head, backbone=dict(lr=1e-4, layer_decay=0.9)),
        ),
    )
    if config.model.name == common.DIGITS_MODEL:
        config.data.name, config.data.image_size = "shapes", 64
        config.stages[1].groups.backbone.lr = 5e-4
    return config
