"""Choose in how many slices a step takes its batch, if `optimizer.accumulate` is open; the step is the same."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxdino.core.image_sizes import Size
from jaxdino.models.few_images import images_each, vit_tokens
from jaxdino.models.spec import ModelSpec
from jaxdino.stage import Stage
from jaxdino.strategy import format_plan
from jaxdino.train.recorded import recorded
from jaxdino.train.task import Part


def keep_slices(config: Any, workdir: str | Path | None) -> None:
    """Replace an open `optimizer.accumulate` by the number that the run in the folder began with, if it has one.

    Runs of earlier versions have one: drop path draws its masks for each slice.
    """
    before = (recorded(workdir).get("optimizer") or {}).get("accumulate")
    if before and config.optimizer.get("accumulate") is None:
        config.optimizer.accumulate = before


def tokens(spec: ModelSpec, views: Iterable[Size]) -> int:
    """Return the tokens of all views (height, width) of an image; 0 for a network that is narrow, or no transformer.

    Only these are divided: batch norm would normalise each slice by itself.
    """
    return sum(vit_tokens(spec.config, *size) for size in views)


def sliced_stage(stage: Stage, tokens: int, devices: int) -> Stage:
    """Return the stage with a number of slices: the given one, or the fastest.

    Args:
      tokens: of an image; 0 if the batch must stay whole. devices: over which the batch is divided.
    """
    if stage.accumulate is not None:
        return stage
    images = (stage.batch_size or 0) // devices
    return dataclasses.replace(stage, accumulate=images // max(images_each(images, tokens), 1) or 1)


def plan_lines(part: Part) -> str:
    """Format the plan of a stage, and say in how many slices its steps take a batch."""
    slices, batch = part.stage.accumulate or 1, part.stage.batch_size or 0
    if slices == 1:
        return format_plan(part.plan)
    line = f"steps: {batch:,} images in {slices} slices of {batch // slices:,}, as one batch (optimizer.accumulate)"
    return f"{format_plan(part.plan)}\n{line}"
