"""What a run reads: the config's part of it, and what there is, in a line."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxdino.data.sources import DataConfig, Source, load_source
from jaxdino.models.spec import Preprocess
from jaxdino.train.task import Part

OF_STAGES = ("augment", "batch_size", "image_size", "views")  # in config.data, but read by stages
SHOWN = 8  # kinds of what is passed over


def config_of(config: Any) -> DataConfig:
    """The part of config.data that says what is read, and how."""
    return DataConfig.of({name: value for name, value in config.data.items() if name not in OF_STAGES})


def batches(make: Callable[..., Any], config: Any, part: Part, preprocess: Preprocess) -> Any:
    """This process's batches of a stage, as the model wants its images; `make` knows the split and all else."""
    return make(
        cfg=dataclasses.replace(config_of(config), sixteen_bit=preprocess.sixteen_bit),
        batch_size=part.stage.batch_size,
        image_size=part.image_size,
        resize=preprocess.resize,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def labelled(cfg: DataConfig) -> Source:
    """A source with training and validation images. Raises UserError if it lacks one."""
    source = load_source(cfg)
    for name in ("train", "val"):
        source.split(name)
    return source


def summary(source: Source, records: str = "images", what: str = "data") -> str:
    """What the data was understood as: classes, `records` of each split, what was passed over; more in lines below."""
    origins = {name: f" ({source.origins[name]})" if name in source.origins else "" for name in source.splits}
    sizes = ", ".join(f"{name} {len(split)}{origins[name]}" for name, split in source.splits.items())
    passed = [f"{count} {why}" for why, count in source.ignored.items() if count]
    more = [f"{len(passed) - SHOWN} more kinds"] if len(passed) > SHOWN else []
    ignored = f"; ignored: {', '.join([*passed[:SHOWN], *more])}" if passed else ""
    classes = f"{len(source.class_names)} classes" if source.class_names else "no labels"
    return "\n".join(
        f"{what}: {line}" for line in (f"{source.name}, {classes}; {records}: {sizes}{ignored}", *source.notes)
    )
