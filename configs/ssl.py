"""Self-distillation from random weights: a backbone from your own images, without a label.

    python -m jaxdino.main --config=configs/ssl.py
    python -m jaxdino.main --config=configs/ssl.py:dinov3_vits16 --config.data.name=images --config.data.root=DIR

`--config.objective.method` is dino (arXiv:2104.14294), dinov2 (arXiv:2304.07193: with masked patches and KoLeo) or
dinov3 (with Sinkhorn-Knopp); its settings are those of `jaxdino.objectives.distill_settings.Distill`. Labels are never
trained on; where the data has some, they measure the k-NN accuracy. To go on from released weights: ssl_continue.
"""

from dataclasses import asdict

from ml_collections import ConfigDict

from configs import common
from jaxdino.data import views

LAST_LAYER = r"(dino|ibot)_head\.last_layer\..*"


def get_config(model: str | None = None) -> ConfigDict:
    """One stage of 100 epochs."""
    config = common.distill_config(model)
    config.model.weights = "random"
    config.stages = (
        common.distill_stage(
            "pretrain",
            epochs=100,
            rules=((LAST_LAYER, "last_layer"), ("@head", "all"), ("@all", "all")),
            groups=dict(last_layer=dict(lr=5e-4, freeze_epochs=1.0), all=dict(lr=5e-4)),
            schedule=dict(warmup_epochs=10.0, final=2e-3),
            objective=dict(gram=0.0),
        ),
    )
    return fit_digits(config, epochs=dict(pretrain=60), rates=dict(last_layer=2e-3, all=2e-3))


def fit_digits(config: ConfigDict, epochs: dict[str, int], rates: dict[str, float]) -> ConfigDict:
    """Numbers for the embedded digits and their tiny model; a config of another model passes untouched.

    Small crops, little colour, a small head: and no mirror, since a mirrored digit is none.

    Args:
      epochs: {stage: its length}. rates: {group: its rate}.
    """
    if config.model.name != common.DIGITS_MODEL:
        return config
    plain = dict(hflip=0.0, hue=0.0, saturation=0.0, gray_prob=0.0, brightness=0.4, contrast=0.4, ratio=(0.8, 1.25))
    blur = dict(blur_sigma=(0.1, 1.0), blur_prob=0.3)
    config.data.views = tuple(
        ConfigDict(asdict(view))
        for view in (
            views.View("global", 32, (0.5, 1.0), count=2, **plain, **blur),
            views.View("local", 16, (0.15, 0.5), count=6, **plain, **blur),
        )
    )
    config.projection.update(out_dim=1024, hidden_dim=256, bottleneck_dim=64)
    for given in config.stages:
        given.epochs = epochs[given.name]
        for name, group in given.groups.items():
            if not group.frozen:
                group.lr = rates[name]
    return config
