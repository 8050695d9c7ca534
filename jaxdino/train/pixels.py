"""How a run reads pixels: channels, value range of 16-bit images, mean and std; stored in the model's card."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convert.card import Card
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json, write_json
from jaxdino.data import survey
from jaxdino.data.channels import Reading
from jaxdino.data.config import MEASURED, DataConfig
from jaxdino.data.duplicates import duplicates
from jaxdino.data.ranges import Range
from jaxdino.data.recipe import View
from jaxdino.data.record import Source
from jaxdino.data.shortcuts import mostly_cropped
from jaxdino.data.survey import Survey
from jaxdino.inspect_data.classes import short
from jaxdino.inspect_data.listing import command
from jaxdino.models.spec import Preprocess
from jaxdino.train import normalization
from jaxdino.train.workdir import Workdir

KEPT = "pixels.json"  # in a run's folder: the value range chosen when the run began, and the measured mean and std
RGB_ONLY = ("saturation", "hue", "gray_prob")


def settled(cfg: DataConfig, source: Source, card: Card, say: Callable[[str], None]) -> Card:
    """Return the card with the preprocessing that the settings and the images need; print what was detected.

    Raises:
      UserError: if the mean or std has the wrong number of channels, if the images do not fit the model's channels, or
        if the value range cannot be detected and has to be set.
    """
    channels, how = card.spec.config.in_channels, card.spec.preprocess
    how = dataclasses.replace(how, **resize_of(cfg, how, say), **normalization.given(cfg, channels))
    if cfg.normalization in normalization.NAMED:
        say(f"normalization: {cfg.normalization}, mean {how.mean}, std {how.std}")
    asked, own = Range.of(cfg.sixteen_bit), Range.of(how.sixteen_bit)
    found: Survey | None = survey.look(list(source.splits.values()), cfg.max_pixels, cfg.scenes)
    chosen = asked if asked.chosen else own
    if found is not None:
        chosen, lines = survey.settle(found, asked, own, channels)
        for line in (*lines, *mostly_cropped(found.kinds, how.size, how.resize)):
            say(line)
    lines = [*duplicates(list(source.splits.values())), *short(source)]
    if lines and (more := command(cfg)):
        lines.append(f"data: {more} shows more")
    for line in lines:
        say(line)
    how = dataclasses.replace(how, sixteen_bit=str(chosen))
    if cfg.normalization == MEASURED:
        reading = Reading(channels, chosen, cfg.max_pixels)
        how = dataclasses.replace(how, **normalization.measured(cfg, source, reading, say))
    return dataclasses.replace(card, spec=dataclasses.replace(card.spec, preprocess=how))


def measured(cfg: DataConfig, source: Source, how: Preprocess, say: Callable[[str], None]) -> DataConfig:
    """Return the settings for reading labelled evaluation images as the run reads its own (`how`).

    If the run's own images have 8 bits, and therefore no value range, the range is detected from these images.

    Raises:
      UserError: see `settled`.
    """
    found, chosen = survey.look(list(source.splits.values()), cfg.max_pixels), Range.of(how.sixteen_bit)
    if found is not None:
        chosen, lines = survey.settle(found, chosen, chosen, len(how.mean))
        for line in lines:
            say(f"evaluation {line}")
    return dataclasses.replace(cfg, sixteen_bit=str(chosen))


def resize_of(cfg: DataConfig, how: Preprocess, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the crop mode and share that are set, else those of the weights; print what differs from the weights."""
    mode = how.crop_mode if cfg.crop_mode is None else cfg.crop_mode
    share = cfg.crop_pct or (how.crop_pct if cfg.crop_mode is None else 1.0)
    if (mode, share) != (how.crop_mode, how.crop_pct):
        say(
            f"images: crop_mode={mode}, crop_pct={share:g} in evaluation, and in training where augment has scale=None "
            f"(the weights had {how.crop_mode}, {how.crop_pct:g})"
        )
    return {"crop_mode": mode, "crop_pct": share}


def of_model(config: DataConfig, how: Preprocess) -> DataConfig:
    """Return the data settings with the value range that the model's images are read in."""
    return dataclasses.replace(config, sixteen_bit=how.sixteen_bit)


def resumed(config: Any, folder: Workdir) -> Any:
    """Return the config of a resumed run; what was chosen by the images when the run began replaces what is open."""
    file = folder / KEPT
    measured = config.data.get("normalization") == MEASURED
    if not file.exists() or not (measured or config.data.sixteen_bit == "auto"):
        return config
    changes: dict[str, Any] = {}
    try:
        kept = read_json(file, dict)
        if config.data.sixteen_bit == "auto" and ("sixteen_bit" in kept or "mean" not in kept):
            changes["sixteen_bit"] = str(Range.of(kept["sixteen_bit"]))
        if measured:
            changes |= {"normalization": None} | {name: tuple(map(float, kept[name])) for name in ("mean", "std")}
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        why = f"{err}: " if isinstance(err, JsonError) else f"{file} "
        raise UserError(f"{why}was not written by a run: fix it, or give a new --workdir") from None
    config = config.copy_and_resolve_references()
    config.data.update(changes)
    return config


def keep(folder: Workdir, how: Preprocess, named: str | None = None) -> None:
    """Write what the images decided to the run's folder, unless it is already there: value range, measured mean, std.

    Args:
      named: data.normalization.
    """
    file: Path = folder / KEPT
    kept: dict[str, Any] = {} if how.sixteen_bit == "auto" else {"sixteen_bit": how.sixteen_bit}
    if named == MEASURED:
        kept |= {"mean": how.mean, "std": how.std}
    if folder.lock.chief and kept and not file.exists():
        write_json(file, kept)


def without_effect(view: View, channels: int) -> str:
    """Name the parts of a colour augmentation that have no effect on images without RGB channels; "" if none."""
    idle = [name for name in RGB_ONLY if getattr(view, name)] if channels != 3 else []
    idle += [f"Color of {view.auto}"] if view.auto and channels != 3 else []
    return f"{', '.join(idle)}: no effect on images of {channels} channel{'s' * (channels > 1)}" if idle else ""
