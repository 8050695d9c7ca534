"""Check the values of a config that need neither data nor weights, without JAX: wrong ones are refused at once."""

from typing import Any

from jaxdino.core import size_text
from jaxdino.core.errors import UserError
from jaxdino.core.options import CHANNELS, check_choice, check_range
from jaxdino.data.config import settings_of_data
from jaxdino.data.presets import get_preset
from jaxdino.data.sampling import POWERS
from jaxdino.objectives.settings import OBJECTIVES, settings_of
from jaxdino.settings import writers
from jaxdino.stage import SIZES, stages

CHOICES = {
    "precision": ("float32", "bfloat16", "float16"),
    "model.attention": ("xla", "cudnn"),
    "model.remat": ("none", "blocks", "dots", "True", "False"),
    "objective.name": tuple(OBJECTIVES),
}
RANGES = {
    "seed": "[0, 18446744073709551615]",
    "model.in_channels": CHANNELS,
    "log_every": "[1, inf)",
    "checkpoint.every_epochs": "[1, inf)",
    "checkpoint.every_steps": "[1, inf)",
    "checkpoint.keep": "[2, inf)",  # if the newest is damaged, the previous one is used
}


def check(config: Any) -> None:
    """Raise UserError for settings that are unknown, out of range or contradictory."""
    for path, known in CHOICES.items():
        check_choice(path, _value(config, path), known)
    for path, interval in RANGES.items():
        if (value := _value(config, path)) is not None:
            check_range(path, value, interval)
    if config.model.name != config.model.configured_for:
        raise UserError(
            f"the config, with its lengths and rates, was made for {config.model.configured_for!r}, but model.name is "
            f"{config.model.name!r}: give the model after the colon, --config=configs/linear.py:{config.model.name}"
        )
    writers.check(config)
    if size := (config.get("evaluation") or {}).get("image_size"):
        size_text.read_size(size, "evaluation.image_size")
    for name, read in SIZES.items():
        read(config.data.get(name), f"data.{name}")
    settings_of_data(config.data)
    for stage in stages(config):
        settings_of(config, stage.objective, f"stage {stage.name!r}")
        check_choice(f"stage {stage.name!r}: sampling", stage.sampling, list(POWERS))
        get_preset(stage.augment)


def _value(config: Any, path: str) -> Any:
    """Return the value at a path; None if the config has none, as self-distillation has no data.image_size."""
    *parents, name = path.split(".")
    for parent in parents:
        config = config[parent]
    return config.get(name)
