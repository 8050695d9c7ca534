"""Data of a run: its data settings, its batches, and a summary line of the data source."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.words import few, printable, unpaired
from jaxdino.data.config import DataConfig, settings_of_data
from jaxdino.data.reader import DRAWN
from jaxdino.data.record import Source, Split
from jaxdino.data.sources import load_source
from jaxdino.models.spec import ModelSpec
from jaxdino.train.task import Part

Check = Callable[[str, Source], None]
"""Called with each source that a task loads, and its name: "data", or "evaluation" for images that only measure."""
SHOWN = 8  # kinds of ignored files that the summary lists


def unchecked(name: str, source: Source) -> None:
    """Accept every source."""


def config_of(config: Any) -> DataConfig:
    """Return the settings of config.data that say which data is read, and how."""
    return settings_of_data(config.data)


def batches(make: Callable[..., Any], config: Any, part: Part, spec: ModelSpec, alone: bool = False) -> Any:
    """Make this process's batches of a stage, preprocessed for the model, by calling `make`.

    Args:
      alone: whether this process gets whole batches, not its share of them.
    """
    return make(
        cfg=dataclasses.replace(config_of(config), sixteen_bit=spec.preprocess.sixteen_bit),
        batch_size=part.stage.batch_size,
        image_size=part.image_size,
        resize=spec.preprocess.resize,
        channels=spec.config.in_channels,
        process_index=0 if alone else jax.process_index(),
        process_count=1 if alone else jax.process_count(),
    )


def sent(batch: Mapping[str, np.ndarray], arrays: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the entries of a training batch that go to the devices: those a task reads, and the augmentation."""
    return {name: batch[name] for name in (*arrays, *DRAWN) if name in batch}


def validated(cfg: DataConfig, field: str = "label", **how: Any) -> Source:
    """Load a source that has training and validation images, and class names that can be saved with a model.

    Args:
      field, how: as for `sources.load_source`.

    Raises:
      UserError: if one of the splits is missing, or for a class name that is not valid Unicode.
    """
    source = load_source(cfg, field, **how)
    for name in ("train", "val"):
        source.split(name)
    if odd := [name for name in source.class_names if any(map(unpaired, name))]:
        raise UserError(
            f"class names that are not valid UTF-8 cannot be saved with a model: {few(list(map(printable, odd)), 3)}. "
            "Rename these classes (with class folders: the folders)"
        )
    return source


def summary(source: Source, records: str = "images", what: str = "data", count: Callable[[Split], int] = len) -> str:
    """Summarise a data source: classes, number of `records` in each split, ignored files; notes on further lines."""
    origins = {name: f" ({source.origins[name]})" if name in source.origins else "" for name in source.splits}
    sizes = ", ".join(f"{name} {count(split)}{origins[name]}" for name, split in source.splits.items())
    passed = [f"{count} {why}" for why, count in source.ignored.items() if count]
    more = [f"{len(passed) - SHOWN} more kinds"] if len(passed) > SHOWN else []
    ignored = f"; ignored: {', '.join([*passed[:SHOWN], *more])}" if passed else ""
    fields = next(iter(source.splits.values())).fields
    none = "a depth map each" if "depth" in fields else "no labels"
    classes = f"{len(source.class_names)} classes" if source.class_names else none
    return "\n".join(
        f"{what}: {line}" for line in (f"{source.name}, {classes}; {records}: {sizes}{ignored}", *source.notes)
    )
