"""Settings that all configs share, with their defaults, and `stage` to define stages.

Fields that a stage leaves open are inherited from here: `--config.data.batch_size=256` applies to all stages and
`--config.stages[1].batch_size=64` to one of them. A setting that is None by default keeps its type, so that flags can
set it. The classes used here describe each setting next to its default.
"""

from dataclasses import asdict, replace
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from jaxdino.core.image_sizes import whole
from jaxdino.data import recipe
from jaxdino.data.config import OF_SIZES, DataConfig
from jaxdino.models.lora_spec import LoRA
from jaxdino.objectives.distill_settings import Distill, Projection
from jaxdino.objectives.health import THRESHOLDS
from jaxdino.objectives.settings import Classifying
from jaxdino.settings.open_fields import Folders, defaults, open_fields
from jaxdino.settings.run import Alarms, Checkpoint, Debug, Evaluation, Mesh, Model, Run, Tracking
from jaxdino.stage import Group, Optimizer, Schedule, Stage

LORA = r"(.*\.)?lora\..*"  # pattern of all adapters
DIGITS_MODEL = "dinov3_digits"  # embedded, as are its weights and the digits


def get_config(model: str | None = None) -> ConfigDict:
    """Return all settings except the stages, for a model by its published name; by default the embedded one."""
    embedded = model in (None, "", DIGITS_MODEL)
    config = ConfigDict(defaults(Run))
    named = defaults(Model, name=model or DIGITS_MODEL, configured_for=model or DIGITS_MODEL)
    config.model = named | {"drop_path": Stage.drop_path}
    config.data = dict(
        **defaults(DataConfig, name="digits" if embedded else "folder") | {"root": Folders()},
        **{name: placeholder(object) for name in OF_SIZES},
        batch_size=64,
        augment="light",
        sampling=Stage.sampling,
    )
    config.objective = open_fields(Classifying, dict(name="classify", label_smoothing=Stage.label_smoothing))
    config.optimizer = dict(
        **asdict(Optimizer()),
        schedule=asdict(Schedule()),
        layer_decay=Group.layer_decay,
        weight_decay=0.05,
        weight_decay_end=placeholder(float),
        no_decay=Stage.no_decay,
        clip_norm=1.0,
        clip_by=Stage.clip_by,
        accumulate=placeholder(int),
    )
    config.early_stopping = dict(monitor=placeholder(str), patience=Stage.patience, min_delta=Stage.min_delta)
    config.mesh = defaults(Mesh)
    config.ema_decay = placeholder(float)
    config.checkpoint = defaults(Checkpoint)
    config.tracking = defaults(Tracking)
    config.debug = defaults(Debug)
    return config


def distill_config(model: str | None = None) -> ConfigDict:
    """Return all settings of self-distillation except the stages: the shared ones, and its own."""
    config = get_config(model)
    config.objective = open_fields(Distill, dict(name="distill", method="dino"))  # None: the method's value
    config.projection = asdict(Projection())
    for name in ("augment", *OF_SIZES, "sampling"):
        del config.data[name]
    config.data.views = tuple(map(view_settings, _fitting(recipe.DINO, config.model.name)))
    config.data.batch_size = 64 if config.model.name == DIGITS_MODEL else 256
    config.optimizer.update(weight_decay=0.04, weight_decay_end=0.4, clip_norm=3.0, clip_by="parameter")
    config.early_stopping.monitor = ""  # labels do not select the model: the latest teacher is the best
    config.evaluation = defaults(Evaluation)
    config.checkpoint.every_steps = 500
    config.alarms = dict(**defaults(Alarms), **THRESHOLDS)
    return config


def stage(name: str, rules: tuple[tuple[str, str], ...], groups: dict[str, dict], **settings: Any) -> ConfigDict:
    """Make a stage; fields that are not in `settings` are open. Fields: `jaxdino.stage.Stage`."""
    parts = {
        "groups": ConfigDict({key: open_fields(Group, values) for key, values in groups.items()}),
        "optimizer": open_fields(Optimizer, settings.pop("optimizer", {})),
        "schedule": open_fields(Schedule, settings.pop("schedule", {})),
        "lora": open_fields(LoRA, settings.pop("lora", {})),
        "objective": settings.pop("objective", ConfigDict()),
    }
    return open_fields(Stage, dict(name=name, rules=rules, **parts, **settings))


def view_settings(view: recipe.View) -> ConfigDict:
    """Return a view as settings; its size may be a number or a text."""
    return ConfigDict(asdict(view) | {"size": FieldReference(view.size, field_type=object)})


def fitted(side: int, model: str) -> int:
    """Round the side of an image, pixels, to whole patches of a model: 518 instead of 512 for patches of 14."""
    from jaxdino.models import registry  # imports JAX

    patch = getattr(registry.MODELS[model].config, "patch_size", 1) if model in registry.MODELS else 1
    return whole(side, patch)


def _fitting(chosen: tuple[recipe.View, ...], model: str) -> tuple[recipe.View, ...]:
    """Round the sizes of views to whole patches of a model: 98 instead of 96 for patches of 14, as in DINOv2."""
    return tuple(replace(view, size=fitted(view.size, model)) for view in chosen)


def distill_stage(*args: Any, objective: dict[str, Any] | None = None, **settings: Any) -> ConfigDict:
    """Make a stage of self-distillation; open fields of `objective` take the values of config.objective."""
    return stage(*args, objective=open_fields(Distill, objective or {}), **settings)


def fit_digits(config: ConfigDict, epochs: dict[str, int]) -> ConfigDict:
    """Set values for the embedded digits and their tiny model; a config of another model is not changed.

    A small model needs higher rates. Images are not augmented, since a flipped or cropped digit is not that digit.

    Args:
      epochs: {stage: its limit}.
    """
    if config.model.name != DIGITS_MODEL:
        return config
    config.data.augment = "none"
    config.own_rates.update(dict.fromkeys(config.own_rates, 5e-4))
    for given in config.stages:
        given.epochs = epochs[given.name]
        given.augment = placeholder(str)
        for name, group in given.groups.items():
            if not group.frozen:
                group.lr = 1e-2 if name == "head" else 5e-4
    return config
