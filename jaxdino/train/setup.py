"""Validate and resolve a config: check everything that can be checked before training starts."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdino import optim
from jaxdino.core import sharding, size_text
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.lora import leaves
from jaxdino.settings.check import check
from jaxdino.stage import Stage, stages
from jaxdino.strategy import resolve
from jaxdino.train import data, sizing, slicing, weights
from jaxdino.train.task import Part, Task
from jaxdino.train.tasks import task_of

EMBEDDED = {
    "digits": "Give the model after the colon, --config=configs/linear.py:dinov3_vits16, or --config.data.name=folder",
    "shapes": "Say how the folder is laid out, --config.data.name=masks, voc or coco",
}
"""Embedded data that needs no folder -> the setting to use for data in a folder."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """A validated, resolved run.

    Attributes:
      parts: the stages with a length above 0.
    """

    config: Any
    task: Task
    mesh: Mesh
    rules: sharding.Rules
    parts: tuple[Part, ...]


def prepare(config: Any, say: Callable[[str], None] = print, check: data.Check = data.unchecked) -> Setup:
    """Read the image lists and the weights, and resolve every stage.

    Args:
      check: called with each source of images as soon as it is listed.

    Raises:
      UserError: for settings that do not work with this data, this model or these devices.
    """
    check_settings(config)
    chosen = [stage for stage in stages(config) if stage.length(1) > 0]
    if not chosen:
        raise UserError("every stage has a length of 0: there is nothing to train")
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, tensor=config.mesh.tensor)
    rules = tuple(config.mesh.get("rules", ()))
    task = task_of(config.objective.name)(config, mesh, say, check)
    sharding.check_rules(rules, list(task.flat))
    for path, array in task.flat.items():
        sharding.spec_for(path, array.shape, mesh, rules)
    with sharding.on(mesh):  # layers check that they can be divided over it
        return Setup(config, task, mesh, rules, _resolve(config, chosen, task, mesh))


def check_settings(config: Any) -> None:
    """Raise UserError for settings of the whole run that are unknown, out of range or contradictory."""
    check(config)
    for stage in stages(config):
        optim.check_names(stage)
    model, given = config.model, config.data
    if (spec := weights.published(model)) and "image_size" in given:
        for stage in stages(config):
            sizing.sizes_of(stage, spec)
    if given.name in EMBEDDED and given.root is not None:
        raise UserError(f"data.root={given.root} is not read: data.name is {given.name!r}. {EMBEDDED[given.name]}")
    if model.attention == "cudnn" and (jax.default_backend() != "gpu" or config.precision == "float32"):
        raise UserError("model.attention='cudnn' needs an NVIDIA GPU and precision bfloat16 or float16: use 'xla'")


def _resolve(config: Any, chosen: list[Stage], task: Task, mesh: Mesh) -> tuple[Part, ...]:
    parts, plans = [], []
    for index, stage in enumerate(chosen):
        images = len(task.source.split("train"))
        if stage.monitor is None:
            stage = dataclasses.replace(stage, monitor=task.monitors[0] if task.monitors else "")
        check_stage(stage, sharding.batch_shards(mesh), images, task.monitors)
        skeleton, sizes = task.skeleton(stage), task.sizes(stage)
        stage = slicing.sliced_stage(stage, task.tokens(stage, sizes), sharding.batch_shards(mesh))
        check_memory(stage, sizes.largest, task.spec.config.in_channels, sharding.batch_shards(mesh))
        plans.append(resolve(task.spec, skeleton, stage))
        steps = images // stage.batch_size
        total = stage.length(steps)
        size_text.check_reached(sizes.schedule, -(-total // steps), "image_size", f"stage {stage.name!r}")
        tx = optim.build(plans[-1], stage, total, optim.ages(plans, leaves(plans[-1].trainable)), steps)
        seed = int(np.random.SeedSequence([config.seed, index]).generate_state(1)[0] >> 1)
        averaged = task.averaged(plans, stage)
        part = Part(index, stage, plans[-1], skeleton, tx, steps, total, sizes, sizes.final, seed, averaged)
        parts.append(part)
    return tuple(parts)


def check_memory(stage: Stage, size: tuple[int, int], channels: int, devices: int) -> None:
    """Raise UserError if the images of one batch alone need more memory than the devices have.

    Args:
      size: (height, width) of the images. channels: their number of channels.
    """
    stats = jax.local_devices()[0].memory_stats() or {}  # None on a CPU
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    have = stats.get("bytes_limit", 0) * devices or machine * jax.process_count()
    need = stage.batch_size * math.prod(size) * channels * (1 + 4 / (stage.accumulate or 1))  # as uint8, and as float32
    if need > have > 0:
        raise UserError(
            f"stage {stage.name!r}: batch_size={stage.batch_size} images of {size[0]} x {size[1]} pixels alone need "
            f"{need / 2**30:,.0f} GiB of memory, of {have / 2**30:,.0f}: lower data.image_size or data.batch_size"
        )


def check_stage(stage: Stage, devices: int, images: int, monitors: tuple[str, ...]) -> None:
    """Raise UserError for a batch that cannot be divided or filled, or for a metric that is not measured."""
    where, batch = f"stage {stage.name!r}", stage.batch_size
    if stage.monitor and stage.monitor not in monitors:
        raise UserError(f"{where}: monitor={stage.monitor!r} is not measured; {did_you_mean(stage.monitor, monitors)}")
    if stage.plateaus and not stage.monitor:
        known = f"set monitor, one of {', '.join(monitors)}" if monitors else "the data has no labels to measure one"
        raise UserError(f"{where}: patience={stage.patience} needs a metric to monitor: {known}")
    slices = stage.accumulate or 1
    if not batch or batch % (devices * slices):
        raise UserError(
            f"{where}: batch_size={batch} cannot be divided over {devices} device(s) x {slices} "
            f"slice(s): give a multiple of {devices * slices}"
        )
    if batch > images:
        slices *= devices
        raise UserError(
            f"{where}: batch_size={batch} is larger than the {images} training images: lower it, as in "
            f"--config.data.batch_size={max(images // 10 // slices, 1) * slices}"
        )
