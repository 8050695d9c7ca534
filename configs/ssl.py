"""Self-distillation from random weights: train a backbone on your own images, without labels.

    python -m jaxdino.main --config=configs/ssl.py
    python -m jaxdino.main --config=configs/ssl.py:dinov3_vits16 --config.data.name=images --config.data.root=DIR

`--config.objective.method` is dino (arXiv:2104.14294), dinov2 (arXiv:2304.07193: adds masked patches and KoLeo) or
dinov3 (with Sinkhorn-Knopp); its settings are those of `jaxdino.objectives.distill_settings.Distill`. Labels are never
trained on; if the data has labels, they measure the k-NN accuracy. To start from released weights, see ssl_continue.

The embedded weights are the teacher of the first command, with seed 0:

    python -m jaxdino.main --config=configs/ssl.py --workdir=runs/digits
    python -m convert export --workdir runs/digits --format hf --out jaxdino/assets/dinov3_digits

k-NN accuracy (k = 20, `python -m jaxdino.evaluate --weights dinov3_digits --random`, with `--split test` for the second
figure), where 1 image is 0.003; 520 seconds on two cores:

    features         val    test
    this backbone  0.978   0.986
    random         0.426   0.401
    raw pixels     0.975   0.983
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from jaxdino.data.recipe import View

LAST_LAYER = r"(dino|ibot)_head\.last_layer\..*"


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with one stage of 100 epochs."""
    config = common.distill_config(model)
    config.model.weights = "random"
    config.stages = (
        common.distill_stage(
            "pretrain",
            epochs=100,
            rules=((LAST_LAYER, "last_layer"), ("@head", "all"), ("@all", "all")),
            groups=dict(last_layer=dict(lr=5e-4, freeze_epochs=1.0), all=dict(lr=5e-4)),
            schedule=dict(warmup_epochs=10.0, final=2e-3),
        ),
    )
    return fit_digits(config, epochs=dict(pretrain=100), rates=dict(last_layer=3e-3, all=3e-3))


def fit_digits(
    config: ConfigDict, epochs: dict[str, int], rates: dict[str, float], momentum: float | None = None
) -> ConfigDict:
    """Set values for the embedded digits and their tiny model; a config of another model is not changed.

    A flipped or cropped digit is a different digit or none. Crops are therefore large, with small rotations and weak
    colour augmentation, and there are no local views.

    Args:
      epochs: {stage: its length}. rates: {group: its rate}.
      momentum: teacher momentum of the last stage, low enough for few steps; None keeps the default.
    """
    if config.model.name != common.DIGITS_MODEL:
        return config
    if momentum is not None:
        config.stages[-1].objective.momentum = momentum
    colour = dict(brightness=0.3, contrast=0.3, saturation=0.0, hue=0.0, gray_prob=0.0)
    recipe: dict[str, Any] = dict(
        ratio=(3 / 4, 4 / 3), degrees=15.0, hflip=0.0, blur_prob=0.3, blur_sigma=(0.1, 1.0), **colour
    )
    config.data.views = (common.view_settings(View("global", 24, (0.6, 1.0), count=2, **recipe)),)
    fit_few_steps(config)
    config.evaluation.update(every_epochs=4, image_size=32)
    for given in config.stages:
        given.epochs = epochs[given.name]
        given.schedule.warmup_epochs = min(given.schedule.warmup_epochs, 2.0)
        for name, group in given.groups.items():
            if not group.frozen:
                group.lr = rates[name]
    return config


def fit_few_steps(config: ConfigDict) -> None:
    """Set values with which a small network learns within a thousand steps of 64 images.

    A small head with batch norm, Sinkhorn-Knopp and KoLeo make the first outputs differ. A low teacher temperature and
    a low momentum give useful targets early; at the end of a stage the teacher still averages over many steps.
    """
    config.projection.update(out_dim=256, hidden_dim=256, bottleneck_dim=64, use_bn=True)
    config.optimizer.weight_decay_end = 0.04
    sharp = dict(student_temperature=0.07, teacher_temperature=0.02, warmup_teacher_temperature=0.02)
    config.objective.update(centring="sinkhorn", koleo=0.05, momentum=0.9, **sharp)
