"""Choose in how many slices a step takes its batch, if `optimizer.accumulate` is left open.

On a CPU, a step over a few images at a time is faster than one over a large batch, whose activations leave the
processor's caches (docs/performance.md); on accelerators it is slower. The optimiser step is the same.
"""

import dataclasses
from collections.abc import Iterable

import jax

from jaxdino.core.image_sizes import Size
from jaxdino.models.spec import ModelSpec
from jaxdino.models.vit import ViTConfig
from jaxdino.stage import Stage
from jaxdino.strategy import format_plan
from jaxdino.train.task import Part

TOKENS, LARGE = 512, 2700
"""Tokens of a slice, at least, and of a batch that is divided: about 3 and 14 images of 224 pixels in patches of 16."""


def vit_tokens(spec: ModelSpec, views: Iterable[Size]) -> int:
    """Return the tokens of views (height, width) of an image; 0 for a network that is no vision transformer.

    Only these are divided: batch norm would normalise each slice by itself.
    """
    config = spec.config
    if not isinstance(config, ViTConfig):
        return 0
    patch, others = config.patch_size, 1 + config.num_registers
    return sum((height // patch) * (width // patch) + others for height, width in views)


def sliced_stage(stage: Stage, tokens: int, devices: int) -> Stage:
    """Return the stage with a number of slices: the given one, or the fastest for the backend.

    Args:
      tokens: of an image; 0 if the batch must stay whole. devices: over which the batch is divided.
    """
    if stage.accumulate is not None:
        return stage
    images = (stage.batch_size or 0) // devices
    fitting = [size for size in range(1, images) if images % size == 0 and size * tokens >= TOKENS]
    divides = jax.default_backend() == "cpu" and tokens > 0 and images * tokens >= LARGE and fitting
    return dataclasses.replace(stage, accumulate=images // fitting[0] if divides else 1)


def plan_lines(part: Part) -> str:
    """Format the plan of a stage, and say in how many slices its steps take a batch."""
    slices, batch = part.stage.accumulate or 1, part.stage.batch_size or 0
    if slices == 1:
        return format_plan(part.plan)
    line = f"steps: {batch:,} images in {slices} slices of {batch // slices:,}, as one batch (optimizer.accumulate)"
    return f"{format_plan(part.plan)}\n{line}"
