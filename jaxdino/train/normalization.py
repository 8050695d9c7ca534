"""Mean and standard deviation of the pixels: numbers from the settings, sets of numbers by name, or measured."""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.data.channels import Reading
from jaxdino.data.config import MEASURED, DataConfig
from jaxdino.data.record import Source
from jaxdino.inspect_data.exposure import statistics
from jaxdino.inspect_data.images import Images
from jaxdino.inspect_data.pixels import How, facts
from jaxdino.models.published.clip import CLIP
from jaxdino.models.published.vit import SATELLITE
from jaxdino.models.spec import IMAGENET, INCEPTION

Statistics = dict[str, tuple[float, ...]]
NAMED = {"imagenet": IMAGENET, "clip": CLIP, "inception": INCEPTION, "satellite": SATELLITE}
"""data.normalization -> (mean, std) of red, green and blue, for pixels in 0..1."""
MOST = 1_000
"""Training images that are measured, spread evenly over the split."""
LEAST = 1e-3
"""Smallest standard deviation that is taken: images of one colour have 0."""


def given(cfg: DataConfig, channels: int) -> Statistics:
    """Return the mean and std that the settings hold, as numbers or by name, one value per channel; {} if none.

    Raises:
      UserError: for another number of channels, and a std that is not above 0.
    """
    if cfg.normalization in NAMED:
        if channels != 3:
            raise UserError(
                f"data.normalization={cfg.normalization} is of red, green and blue, and the model takes {channels} "
                f"channel{'s' * (channels > 1)}: give {MEASURED}, or numbers as data.mean and data.std"
            )
        return dict(zip(("mean", "std"), NAMED[cfg.normalization], strict=True))
    found = {name: tuple(map(float, value)) for name in ("mean", "std") if (value := getattr(cfg, name)) is not None}
    for name, values in found.items():
        if len(values) not in (1, channels):
            raise UserError(f"data.{name}={values} has {len(values)} numbers, and the model takes {channels} channels")
        if name == "std" and min(values) <= 0:
            raise UserError(f"data.std={values}: every standard deviation must be above 0")
    return {name: values * channels if len(values) == 1 else values for name, values in found.items()}


def measured(cfg: DataConfig, source: Source, reading: Reading, say: Callable[[str], None]) -> Statistics:
    """Measure the mean and std of training images, decoded whole; print them as the flags that give them.

    Raises:
      UserError: if none of the images can be read.
    """
    train = source.split("train")
    rows = np.unique(np.linspace(0, len(train) - 1, min(MOST, len(train))).astype(int)).tolist()
    images = Images(dataclasses.replace(source, splits={"train": train.chosen(rows)}))
    found = statistics(images, facts(images, How(reading, draft=False), cfg.num_threads))
    if not found:
        raise UserError(f"data.normalization={MEASURED}: none of {len(rows)} training images could be read")
    mean, std = (tuple(found[name]) for name in ("mean", "std"))
    std = tuple(max(value, LEAST) for value in std)
    flags = " ".join(f"--config.data.{name}={','.join(map(str, one))}" for name, one in (("mean", mean), ("std", std)))
    say(f"normalization: measured on {found['images']:,} of {len(train):,} training images: {flags} says so")
    return {"mean": mean, "std": std}
