"""Sources of data: list the records of each split, with their fields. Nothing is decoded here."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.data.config import DataConfig
from jaxdino.data.links import check_links
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.sources import (
    box_manifest,
    boxed,
    class_maps,
    coco,
    coco_boxes,
    coco_instances,
    coco_panoptic,
    depth_maps,
    digits,
    folder,
    hf,
    instance_maps,
    manifest,
    masks,
    object_classes,
    shapes,
    shards,
    spheres,
    tfds,
    voc,
    voc_boxes,
    voc_objects,
    yolo,
)

__all__ = ["SOURCES", "DataConfig", "Listing", "Source", "Split", "load_source"]


class Listing(NamedTuple):
    """How a source is listed.

    Attributes:
      of: {field: function of a `DataConfig` that lists the records with this field}; that of "prompts" also takes the
        `PromptConfig`.
      reads: settings that only some sources read, of `OF_SOURCES`.
    """

    of: Mapping[str, Callable[..., Source]]
    reads: tuple[str, ...] = ()


SOURCES: dict[str, Listing] = {
    "digits": Listing({"label": digits.digits}),
    "folder": Listing({"label": folder.folder}, reads=("classes",)),
    "images": Listing({"label": folder.images}),
    "manifest": Listing(
        {**manifest.FIELDS, **boxed.field(box_manifest.boxes), "depth": depth_maps.manifest},
        reads=("columns", "images", "depth_scale"),
    ),
    "shards": Listing(shards.FIELDS),
    "tfds": Listing(tfds.FIELDS, reads=("columns", "image_column", "dataset")),
    "hf": Listing(hf.FIELDS, reads=("columns", "image_column")),
    "shapes": Listing(
        {
            "prompts": shapes.shapes,
            "class_mask": class_maps.shapes,
            "boxes": shapes.boxes,
            "instances": instance_maps.shapes,
        }
    ),
    "masks": Listing(
        {"prompts": masks.masks, "class_mask": class_maps.masks, "instances": instance_maps.masks},
        reads=("prompt", "images", "masks", "background"),
    ),
    "voc": Listing(
        {
            "prompts": voc.voc,
            "class_mask": class_maps.voc,
            **object_classes.fields(object_classes.voc),
            **boxed.field(voc_boxes.voc),
            "instances": voc_objects.voc,
        },
        reads=("background",),
    ),
    "coco": Listing(
        {
            "prompts": coco.coco,
            **object_classes.fields(object_classes.coco),
            **boxed.field(lambda cfg: coco_boxes.coco(cfg, None)),
            "instances": coco_instances.coco,
        },
        reads=("annotations",),
    ),
    "coco_panoptic": Listing({"instances": coco_panoptic.coco}),
    "yolo": Listing(boxed.field(yolo.yolo)),
    "depth": Listing({"depth": depth_maps.depth}, reads=("images", "depths", "depth_scale")),
    "spheres": Listing({"depth": spheres.spheres}),
}
"""data.name -> its source."""
WORDS = {
    "label": "data source",
    "labels": "source of several labels",
    "prompts": "source of images and masks",
    "class_mask": "source of masks of classes",
    "boxes": "source of boxes",
    "depth": "source of depth maps",
    "instances": "source of objects with masks",
}
"""Fields -> what their sources are called in errors."""
OF_SOURCES = {
    "classes": "data.classes",
    "prompt": "prompts.prompt",
    "annotations": "prompts.annotations",
    "columns": "data.columns",
    "image_column": "data.image_column",
    "dataset": "data.dataset",
    "images": "data.images",
    "masks": "data.masks",
    "depths": "data.depths",
    "depth_scale": "data.depth_scale",
    "background": "data.background",
}
"""Settings that only the sources which name them in `Listing.reads` read."""
OF_CLASSES = ("images", "masks", "background")
"""Settings that sources of masks read for the fields "class_mask" and "instances" only."""


def load_source(
    cfg: Mapping | DataConfig | None, field: str = "label", prompts: Mapping | PromptConfig | None = None
) -> Source:
    """List the records of the source named by `cfg.name`.

    Args:
      cfg: a `DataConfig`, or a dict or ConfigDict of its fields.
      field: what a task needs to know about each image: its "label", its "prompts" with their masks (then
        `class_names` are the prompts, and records of one image are consecutive), or its "class_mask".
      prompts: a `PromptConfig`, or a dict or ConfigDict of its fields, for the field "prompts".

    Raises:
      UserError: for an unknown name or option, a source without this field, a setting that this source does not read,
        and for any error of the source (with what it found).
    """
    cfg, prompts = DataConfig.of(cfg), PromptConfig.of(prompts)
    known = [name for name, source in SOURCES.items() if field in source.of]
    if cfg.name not in known:
        raise UserError(
            f"unknown {WORDS.get(field, f'source of {field!r}')} {cfg.name!r}; {did_you_mean(cfg.name, known)}"
        )
    source = SOURCES[cfg.name]
    _check_read(cfg, prompts, source.reads, field)
    found = source.of[field](cfg, prompts) if field == "prompts" else source.of[field](cfg)
    if not cfg.follow_links and cfg.root is not None:
        check_links(found, cfg.root)
    return found


def _check_read(cfg: DataConfig, prompts: PromptConfig, reads: tuple[str, ...], field: str) -> None:
    """Raise UserError for a setting that differs from its default and that is not read."""
    for name, flag in OF_SOURCES.items():
        given, default = (cfg, DataConfig()) if hasattr(cfg, name) else (prompts, PromptConfig())
        if getattr(given, name) == getattr(default, name):
            continue
        if name in OF_CLASSES and field not in ("class_mask", "instances") and "class_mask" in SOURCES[cfg.name].of:
            raise UserError(f"{flag}={getattr(given, name)} is for masks of classes (configs/segment_linear.py)")
        if name not in reads:
            reader = next(key for key, source in SOURCES.items() if name in source.reads)
            raise UserError(
                f"{flag}={getattr(given, name)} is for data.name={reader}; {cfg.name!r} does not read it: leave it out"
            )
