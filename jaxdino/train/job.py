"""A config made good: everything that a run needs and everything that can be refused, before any long work."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from convert.store import Card
from jaxdino import optim
from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.core.params import Skeleton, bind
from jaxdino.core.rules import did_you_mean
from jaxdino.data import device_aug, pipeline
from jaxdino.data.sources import DataConfig, Source, load_source
from jaxdino.data.transforms import as_size, get_preset
from jaxdino.objectives.classify import Classify
from jaxdino.stage import Stage, check_range, stages
from jaxdino.strategy import Plan, resolve
from jaxdino.train import step, weights

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
OBJECTIVES = {"classify": lambda stage: Classify(stage.label_smoothing)}
ATTENTION = ("xla", "cudnn")
MONITORS = ("val_accuracy", "val_balanced_accuracy", "val_macro_f1", "val_loss", "val_top5_accuracy")
OF_STAGES = ("augment", "batch_size", "image_size")  # in config.data, but read by stages


@dataclasses.dataclass(frozen=True)
class Part:
    """One stage, resolved. `seed` is its own; `total_steps` its limit."""

    index: int
    stage: Stage
    plan: Plan
    skeleton: Skeleton
    tx: optax.GradientTransformation
    steps_per_epoch: int
    total_steps: int
    image_size: tuple[int, int]
    seed: int


@dataclasses.dataclass(frozen=True)
class Job:
    """A run, resolved.

    Attributes:
      card, flat: the model and the weights it starts from, on the host.
      parts: the stages that have a length.
    """

    config: Any
    source: Source
    card: Card
    flat: Mapping[str, np.ndarray]
    mesh: Mesh
    rules: sharding.Rules
    parts: tuple[Part, ...]

    @property
    def data_config(self) -> DataConfig:
        """The options of the data room."""
        return data_config(self.config)

    def normalize(self, images: jax.Array) -> jax.Array:
        """uint8 images as the model takes them."""
        return device_aug.normalize(images, self.card.spec.preprocess.mean, self.card.spec.preprocess.std)

    def train_step(self, part: Part) -> Callable:
        """The stage's step, not compiled yet."""
        preprocess, preset = self.card.spec.preprocess, get_preset(part.stage.augment)

        def augment(key: jax.Array, batch: step.Batch) -> step.Batch:
            image, label = device_aug.augment(
                key,
                batch["image"],
                batch["label"],
                batch["weight"],
                preset,
                preprocess.mean,
                preprocess.std,
                self.card.num_classes,
            )
            return batch | {"image": image, "label": label}

        return step.make_train_step(
            part.skeleton,
            OBJECTIVES[self.config.objective.name](part.stage),
            part.tx,
            augment,
            accumulate=part.stage.accumulate,
            ema_decay=part.stage.ema_decay,
            scale_loss=self.config.precision == "float16",
        )

    def train_batches(self, part: Part) -> pipeline.TrainIter:
        """The stage's endless training batches."""
        make = partial(pipeline.make_train_iter, self.source.split("train"), seed=part.seed, preset=part.stage.augment)
        return self._batches(make, part)

    def eval_batches(self, part: Part, split: str) -> pipeline.EvalBatches:
        """All of a split, at the stage's image size."""
        return self._batches(partial(pipeline.make_eval_iter, self.source.split(split)), part)

    def _batches(self, make: Callable, part: Part) -> Any:
        preprocess = self.card.spec.preprocess
        return make(
            cfg=self.data_config,
            batch_size=part.stage.batch_size,
            image_size=part.image_size,
            crop_pct=preprocess.crop_pct,
            interpolation=preprocess.interpolation,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


def data_config(config: Any) -> DataConfig:
    """The part of config.data that says what is read, and how."""
    return DataConfig.of({name: value for name, value in config.data.items() if name not in OF_STAGES})


def prepare(config: Any, say: Callable[[str], None] = print) -> Job:
    """Reads the lists of images and the weights, and resolves every stage.

    Raises:
      UserError: for anything in the config that cannot work with this data, model or these devices.
    """
    check_settings(config)
    chosen = [stage for stage in stages(config) if stage.length(1) > 0]
    if not chosen:
        raise UserError("every stage has a length of 0: there is nothing to train")
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    rules = tuple(config.mesh.get("rules", ()))
    source = load_source(data_config(config))
    for name in ("train", "val"):
        source.split(name)
    say(summary(source))
    card, flat = weights.start(config, source.class_names, say)
    sharding.check_rules(rules, list(flat))
    for path, array in flat.items():
        sharding.spec_for(path, array.shape, mesh, rules)
    parts = _resolve(config, chosen, source, card, mesh)
    return Job(config, source, card, flat, mesh, rules, parts)


def check_settings(config: Any) -> None:
    """Raises UserError for settings of the whole run that are not known, out of range or at odds."""
    model, data = config.model, config.data
    for word, value, known in (
        ("precision", config.precision, PRECISIONS),
        ("objective.name", config.objective.name, OBJECTIVES),
        ("model.attention", model.attention, ATTENTION),
    ):
        if value not in known:
            raise UserError(f"{word}={value!r} is not known; {did_you_mean(value, known)}")
    for word, value, interval in (
        ("seed", config.seed, "[0, inf)"),
        ("log_every", config.log_every, "[1, inf)"),
        ("checkpoint.every_epochs", config.checkpoint.every_epochs, "[1, inf)"),
        ("checkpoint.every_steps", config.checkpoint.every_steps, "[1, inf)"),
        ("checkpoint.keep", config.checkpoint.keep, "[2, inf)"),  # so that a damaged one has one before it
    ):
        if value is not None:
            check_range(word, value, interval)
    weights.published(model)
    if model.name != model.configured_for:
        raise UserError(
            f"the config was made for {model.configured_for!r}, its lengths and rates too, and model.name is "
            f"{model.name!r}: give the model after the colon, --config=configs/linear.py:{model.name}"
        )
    if data.name == "digits" and data.root is not None:
        raise UserError(
            f"data.root={data.root} is not read: data.name is 'digits'. Give the model after the colon, "
            "--config=configs/linear.py:dinov3_vits16, or --config.data.name=folder"
        )
    if model.attention == "cudnn" and (jax.default_backend() != "gpu" or config.precision == "float32"):
        raise UserError("model.attention='cudnn' needs an NVIDIA GPU and precision bfloat16 or float16: use 'xla'")


def summary(source: Source) -> str:
    """The data in a line: classes, images of each split, what was passed over."""
    sizes = ", ".join(f"{name} {len(split)}" for name, split in source.splits.items())
    passed = ", ".join(f"{count} {why}" for why, count in source.ignored.items() if count)
    ignored = f"; ignored: {passed}" if passed else ""
    return f"data: {source.name}, {len(source.class_names)} classes; images: {sizes}{ignored}"


def _resolve(config: Any, chosen: list[Stage], source: Source, card: Card, mesh: Mesh) -> tuple[Part, ...]:
    dtype = PRECISIONS[config.precision]
    parts, plans = [], []
    for index, stage in enumerate(chosen):
        check_stage(stage, mesh.size, card.num_classes, len(source.split("train")))
        how = dict(dtype=dtype, attention=config.model.attention, remat=config.model.remat)
        skeleton = card.spec.skeleton(card.num_classes, pool=card.pool, drop_path=stage.drop_path, **how)
        size = as_size(stage.image_size or card.spec.preprocess.size)
        shapes = {path: jax.ShapeDtypeStruct(e.shape, e.dtype) for path, e in skeleton.entries.items()}
        images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        jax.eval_shape(lambda flat, x, skeleton=skeleton: bind(skeleton, flat)(x).logits, shapes, images)
        plans.append(resolve(card.spec, skeleton, stage))
        steps = len(source.split("train")) // stage.batch_size
        total = stage.length(steps)
        tx = optim.build(plans[-1], stage, total, optim.ages(plans), steps)
        seed = int(np.random.SeedSequence([config.seed, index]).generate_state(1)[0] >> 1)
        parts.append(Part(index, stage, plans[-1], skeleton, tx, steps, total, size, seed))
    return tuple(parts)


def check_stage(stage: Stage, devices: int, num_classes: int, images: int) -> None:
    """Raises UserError for a batch that cannot be divided or filled, an unknown preset or metric."""
    where, batch = f"stage {stage.name!r}", stage.batch_size
    get_preset(stage.augment)
    known = MONITORS if num_classes > 5 else MONITORS[:-1]
    if stage.monitor not in known:
        raise UserError(f"{where}: monitor={stage.monitor!r} is not measured; {did_you_mean(stage.monitor, known)}")
    if not batch or batch % (devices * stage.accumulate):
        raise UserError(
            f"{where}: batch_size={batch} cannot be shared out over {devices} device(s) x {stage.accumulate} "
            f"slice(s): give a multiple of {devices * stage.accumulate}"
        )
    if batch > images:
        raise UserError(f"{where}: batch_size={batch} is larger than the {images} training images: lower it")
