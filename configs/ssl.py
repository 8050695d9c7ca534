"""Self-distillation from random weights: a backbone from your own images, without a label.

    python -m jaxdino.main --config=configs/ssl.py
    python -m jaxdino.main --config=configs/ssl.py:dinov3_vits16 --config.data.name=images --config.data.root=DIR

`--config.objective.method` is dino (arXiv:2104.14294), dinov2 (arXiv:2304.07193: with masked patches and KoLeo) or
dinov3 (with Sinkhorn-Knopp); its settings are those of `jaxdino.objectives.distill_settings.Distill`. Labels are never
trained on; where the data has some, they measure the k-NN accuracy. To go on from released weights: ssl_continue.

The first command, whose seed is 0, made the embedded weights; they are its teacher:

    python -m jaxdino.main --config=configs/ssl.py --workdir=runs/digits
    python -m convert export --workdir runs/digits --format hf --out jaxdino/assets/dinov3_digits

k-NN accuracy (k = 20, `python -m jaxdino.evaluate --weights dinov3_digits --random`, with `--split test` for the second
figure), where 1 image is 0.003:

    features         val    test
    this backbone  0.972   0.981
    random         0.426
    raw pixels     0.975   0.983
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
        ),
    )
    return fit_digits(config, epochs=dict(pretrain=60), rates=dict(last_layer=3e-3, all=3e-3))


def fit_digits(config: ConfigDict, epochs: dict[str, int], rates: dict[str, float]) -> ConfigDict:
    """Numbers for the embedded digits and their tiny model; a config of another model passes untouched.

    A digit mirrored or cut is another or none: crops are gentle, colours nearly left alone. A thousand images give few
    steps: a small head with batch norm, Sinkhorn-Knopp, KoLeo and a fast, sharp teacher get it going.

    Args:
      epochs: {stage: its length}. rates: {group: its rate}.
    """
    if config.model.name != common.DIGITS_MODEL:
        return config
    colour = dict(brightness=0.3, contrast=0.3, saturation=0.0, hue=0.0, gray_prob=0.0)
    recipe = dict(hflip=0.0, ratio=(0.8, 1.25), blur_prob=0.3, blur_sigma=(0.1, 1.0), **colour)
    digits = (
        views.View("global", 24, (0.75, 1.0), count=2, **recipe),
        views.View("local", 12, (0.5, 0.85), count=4, **recipe),
    )
    config.data.views = tuple(ConfigDict(asdict(view)) for view in digits)
    config.projection.update(out_dim=256, hidden_dim=256, bottleneck_dim=64, use_bn=True)
    config.optimizer.weight_decay_end = 0.04
    config.evaluation.update(every_epochs=4, image_size=32)
    config.objective.update(centring="sinkhorn", koleo=0.05, momentum=0.98)
    config.objective.update(teacher_temperature=0.03, warmup_teacher_temperature=0.03)
    for given in config.stages:
        given.epochs = epochs[given.name]
        given.schedule.warmup_epochs = min(given.schedule.warmup_epochs, 2.0)
        for name, group in given.groups.items():
            if not group.frozen:
                group.lr = rates[name]
    return config
