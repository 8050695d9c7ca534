"""Sources of image-mask pairs: list the images, prompts and masks of each split."""

from collections.abc import Callable, Mapping

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.data import shapes
from jaxdino.data.coco import coco
from jaxdino.data.mask_folders import masks
from jaxdino.data.pair_listing import assemble
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.sources import DataConfig, Source
from jaxdino.data.voc import voc


def load_pairs(cfg: Mapping | DataConfig | None, prompts: Mapping | PromptConfig | None = None) -> Source:
    """List the pairs of the source named by `cfg.name`; its `class_names` are the prompts.

    Pairs of one image are consecutive. Mask files are read once, to find their values.

    Args:
      cfg: a `DataConfig`, or a dict or ConfigDict of its fields.
      prompts: a `PromptConfig`, or a dict or ConfigDict of its fields.

    Raises:
      UserError: for an unknown name or option, an empty prompt, a split without pairs, and any error of the source
        (with what it found).
    """
    cfg, prompts = DataConfig.of(cfg), PromptConfig.of(prompts)
    if cfg.name not in PAIR_SOURCES:
        raise UserError(f"unknown source of images and masks {cfg.name!r}; {did_you_mean(cfg.name, PAIR_SOURCES)}")
    if cfg.classes != "top":
        raise UserError(
            f"data.classes={cfg.classes} is for data.name=folder; {cfg.name!r} does not read it: leave it out"
        )
    for field, source in (("prompt", "masks"), ("annotations", "coco")):
        if getattr(prompts, field) is not None and cfg.name != source:
            raise UserError(
                f"prompts.{field} is for the source {source!r}; {cfg.name!r} does not read it: leave it None"
            )
    return PAIR_SOURCES[cfg.name](cfg, prompts)


def generated(cfg: DataConfig, prompts: PromptConfig) -> Source:
    """List scenes of coloured shapes (see `shapes.scenes`): 400 train, 80 val, 80 test; seeded by `split_seed`."""
    return assemble("shapes", shapes.scenes(cfg.split_seed), shapes.NAMES, prompts)


PAIR_SOURCES: dict[str, Callable[[DataConfig, PromptConfig], Source]] = {
    "shapes": generated,
    "masks": masks,
    "voc": voc,
    "coco": coco,
}
