"""Knowledge distillation: train a small student with what a larger, frozen teacher makes of the same images.

    python -m jaxdino.main --config=configs/distill.py:resnet18 --config.data.root=DIR \\
        --config.objective.teacher=runs/large
    python -m jaxdino.main --config=configs/distill.py:dinov3_vits16 --config.data.name=images --config.data.root=DIR \\
        --config.objective.teacher=dinov3_vitb16 --config.objective.alpha=0 --config.objective.patches=1.0

The first learns from labels and from the classes of a teacher trained on them, the second from a published backbone's
features, without labels. (`ssl` is self-distillation, whose teacher is the student's own average.) The losses and
results are in docs/distillation.md.
"""

from ml_collections import ConfigDict

from configs import common
from jaxdino.objectives.settings import Teaching


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with one stage that trains the whole student."""
    config = common.get_config(model)
    smoothing = config.objective.label_smoothing
    config.objective = common.open_fields(Teaching, dict(name="knowledge_distillation", label_smoothing=smoothing))
    config.optimizer.schedule.warmup_epochs = 2.0
    config.stages = (
        common.stage(
            "distill",
            epochs=100,
            augment="medium",
            rules=(("@head", "head"), ("@all", "backbone")),
            groups=dict(head=dict(lr=1e-3), backbone=dict(lr=1e-3)),
        ),
    )
    if config.model.name == common.DIGITS_MODEL:  # a flipped or cropped digit is not that digit
        config.stages[0].update(epochs=12, augment="none")
    return config
