"""What a run reads: the config's part of it, and what there is, in a line."""

from typing import Any

from jaxdino.data.sources import DataConfig, Source, load_source

OF_STAGES = ("augment", "batch_size", "image_size", "views")  # in config.data, but read by stages


def config_of(config: Any) -> DataConfig:
    """The part of config.data that says what is read, and how."""
    return DataConfig.of({name: value for name, value in config.data.items() if name not in OF_STAGES})


def labelled(cfg: DataConfig) -> Source:
    """A source with training and validation images. Raises UserError if it lacks one."""
    source = load_source(cfg)
    for name in ("train", "val"):
        source.split(name)
    return source


def summary(source: Source) -> str:
    """The data in a line: classes, images of each split, what was passed over."""
    sizes = ", ".join(f"{name} {len(split)}" for name, split in source.splits.items())
    passed = ", ".join(f"{count} {why}" for why, count in source.ignored.items() if count)
    ignored = f"; ignored: {passed}" if passed else ""
    classes = f"{len(source.class_names)} classes" if source.class_names else "no labels"
    return f"data: {source.name}, {classes}; images: {sizes}{ignored}"
