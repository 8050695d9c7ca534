"""Gradual unfreezing: the head, then the last blocks with it, then everything (ULMFiT, arXiv:1801.06146).

    python -m jaxdino.main --config=configs/gradual.py
    python -m jaxdino.main --config=configs/gradual.py:dinov3_vits16 --config.data.root=DIR

A stage ends when the validation metric has not gained `min_delta` for `patience` epochs, or at its limit; the next
stage starts from its best weights. For a ViT the stages train: the head; head, final norm and last 2 blocks;
everything. For a ResNet: the head; head and layer4; everything.

Results on the embedded digits (first command), and with the same budget from random weights
(`--config.model.weights=random --config.rates=public`):

    stage   val accuracy   from random weights
    head          0.981                  0.290
    last          0.986                  0.644
    all           0.989                  0.897
    test          0.989                  0.936
"""

from ml_collections import ConfigDict

from configs import common


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with three stages, each trained to its plateau."""
    config = common.get_config(model)
    config.early_stopping.patience = 3
    config.early_stopping.min_delta = 1e-3
    frozen = dict(frozen=True)
    head, backbone = dict(lr=1e-3), dict(lr=1e-4, layer_decay=0.9)
    config.own_rates = dict(backbone=1e-3)
    config.stages = (
        common.stage(
            "head",
            epochs=10,
            rules=(("@head", "head"), ("@all", "frozen")),
            groups=dict(head=head, frozen=frozen),
        ),
        common.stage(
            "last",
            epochs=15,
            schedule=dict(warmup_epochs=1.0),
            rules=(("@head", "head"), ("@norm", "backbone"), ("@last", "backbone"), ("@all", "frozen")),
            groups=dict(head=head, backbone=backbone, frozen=frozen),
        ),
        common.stage(
            "all",
            epochs=20,
            schedule=dict(warmup_epochs=1.0),
            rules=(("@head", "head"), ("@all", "backbone")),
            groups=dict(head=head, backbone=backbone | dict(lr=1e-5)),
        ),
    )
    return common.fit_digits(config, epochs=dict(head=10, last=8, all=8))
