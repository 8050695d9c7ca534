"""Progressive fine-tuning: the head; then the last 4 blocks, with augmentation; then all, with strong augmentation.

    python -m jaxdino.main --config=configs/progressive.py
    python -m jaxdino.main --config=configs/progressive.py:dinov3_vits16 --config.data.root=DIR

`--config.skip_optional` leaves the last stage out.

Results on the embedded digits (first command), without augmentation: val accuracy 0.981, 0.989, 0.989 after the three
stages, test 0.989.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with three stages of fixed length; the last one is optional."""
    config = common.get_config(model)
    frozen = dict(frozen=True)
    head, backbone = dict(lr=1e-3), dict(lr=1e-4, layer_decay=0.9)
    config.own_rates = dict(backbone=1e-3)
    config.stages = (
        common.stage(
            "head",
            epochs=15,
            rules=(("@head", "head"), ("@all", "frozen")),
            groups=dict(head=head, frozen=frozen),
        ),
        common.stage(
            "last4",
            epochs=25,
            augment="medium",
            schedule=dict(warmup_epochs=1.0),
            rules=(("@head", "head"), ("@norm", "backbone"), ("@last:4", "backbone"), ("@all", "frozen")),
            groups=dict(head=head, backbone=backbone, frozen=frozen),
        ),
        common.stage(
            "all",
            epochs=15,
            augment="strong",
            schedule=dict(warmup_epochs=1.0),
            rules=(("@head", "head"), ("@all", "backbone")),
            groups=dict(head=head, backbone=backbone | dict(lr=1e-5)),
            optional=True,
        ),
    )
    return common.fit_digits(config, epochs=dict(head=10, last4=20, all=10))
