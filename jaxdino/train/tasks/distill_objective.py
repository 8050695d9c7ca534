"""The objective of a self-distillation stage, checked against the model and the initial weights of the run."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Size, whole
from jaxdino.core.params import Skeleton, bind
from jaxdino.core.size_text import of_size
from jaxdino.data.crops import as_size
from jaxdino.data.masking import Masking
from jaxdino.data.photometric import augment_views, given
from jaxdino.data.recipe import KINDS, View
from jaxdino.data.sampling import UNIFORM
from jaxdino.models.spec import ModelSpec, Preprocess
from jaxdino.objectives.distill_settings import Distill
from jaxdino.objectives.stage_settings import given_in
from jaxdino.stage import Stage
from jaxdino.train import step, weights

UNREAD = {"augment": "none", "label_smoothing": 0.0, "ema_decay": 0.0, "sampling": UNIFORM}
"""Fields of a stage that only classification uses -> their defaults."""


def settings(config: Any, stage: Stage, spec: ModelSpec) -> Distill:
    """Merge the objective of a stage: the method's settings, then those of the config, then those of the stage.

    Raises:
      UserError: for invalid settings, an anchor to random weights, and masks for a model without a mask token.
    """
    method, random = Distill.start(config.objective), config.model.weights == weights.RANDOM
    if random:  # no trained weights to anchor to
        method = dataclasses.replace(method, gram=0.0)
    found = method.changed({**given_in(config.objective), **stage.objective}, f"stage {stage.name!r}")
    if found.anchored and random:
        raise UserError(
            f"stage {stage.name!r}: gram={found.gram} and anchor={found.anchor} anchor to the weights that the run "
            "started from, which are random: set both to 0, or start from trained weights"
        )
    if found.ibot and not hasattr(spec.config, "mask_token"):
        raise UserError(f"stage {stage.name!r}: ibot={found.ibot} masks patches, which {spec.name} does not support")
    if found.ibot and not spec.config.mask_token:
        raise UserError(
            f"stage {stage.name!r}: ibot={found.ibot} masks patches, and {spec.name} has no mask token: set it to 0, "
            "or take a DINOv2 or DINOv3 model"
        )
    return found


def check_stage(stage: Stage, found: Distill, say: Callable[[str], None]) -> None:
    """Warn if the student is as sharp as its teacher. Raises UserError for fields that only a labelled task uses."""
    for name, unread in UNREAD.items():
        if getattr(stage, name) != unread:
            raise UserError(f"stage {stage.name!r}: {name}={getattr(stage, name)} is not read without labels")
    hottest = max(found.teacher_temperature, found.warmup_teacher_temperature)
    if not found.student_temperature > hottest:
        say(
            f"WARNING: stage {stage.name!r}: student_temperature={found.student_temperature} is not above the "
            f"teacher's {hottest}: the outputs are not sharpened, and can become uniform"
        )


def masking(found: Distill, spec: ModelSpec) -> Masking | None:
    """Return the iBOT masking: which patches are hidden from the student."""
    if not found.ibot:
        return None
    return Masking(found.mask_prob, found.mask_ratio, patch=spec.config.patch_size)


def check_sizes(places: Mapping[str, int | Size], spec: ModelSpec, backbone: Skeleton) -> None:
    """Raise UserError, with the nearest valid sizes, if the model does not support a size in {setting: pixels}."""
    wrong = {}
    for place, size in places.items():
        images = jax.ShapeDtypeStruct((1, *as_size(size), spec.config.in_channels), jnp.float32)
        try:
            jax.eval_shape(lambda flat, x: bind(backbone, flat)(x).cls, backbone.shapes, images)
        except UserError as err:
            wrong[place] = err
    if not wrong:
        return
    patch, what = getattr(spec.config, "patch_size", 1), " or ".join(wrong)
    fitting = {place: tuple(whole(side, patch) for side in as_size(places[place])) for place in wrong}
    ways = " ".join(f"--config.{place}={of_size(size)}" for place, size in fitting.items()) if patch > 1 else ""
    raise UserError(f"{what}: {next(iter(wrong.values()))}" + (f", as {ways} does" if ways else ""))


def augmented(
    key: jax.Array, batch: step.Batch, views_of: Callable[[str], tuple[View, ...]], how: Preprocess
) -> step.Batch:
    """Augment the colours of every view of a batch, by its recipe, and normalise."""
    for kind, one in zip(KINDS, jax.random.split(key, len(KINDS)), strict=True):
        if kind in batch:
            drawn = given(batch, kind)
            batch = batch | {kind: augment_views(one, batch[kind], views_of(kind), how.mean, how.std, **drawn)}
    return batch
