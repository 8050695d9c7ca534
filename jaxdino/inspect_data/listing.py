"""List the images of a data source for a check, also where training would need more: boxes alone, masks without names.

`LISTERS` has a function for each source. Nothing is decoded here.
"""

import dataclasses
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.data.boxes import Boxes
from jaxdino.data.config import DataConfig
from jaxdino.data.links import check_links
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.roots import existing
from jaxdino.data.shards import read_folder
from jaxdino.data.sources import (
    OF_SOURCES,
    SOURCES,
    box_manifest,
    class_maps,
    coco_boxes,
    folder,
    hf,
    manifest,
    shards,
    tfds,
    voc_boxes,
    yolo,
)
from jaxdino.data.sources.stored_images import SeveralClasses
from jaxdino.data.split_names import SPLITS
from jaxdino.data.splitting import origins, shared_out
from jaxdino.inspect_data.images import Images

OF_MASKS = ("images", "masks")
"""Settings of folders of masks; every source of boxes leaves masks aside."""


SHOWN = (
    *("val_ratio", "test_ratio", "split_seed", "train_split", "val_split", "test_split"),
    *("classes", "images", "masks", "columns", "image_column", "dataset", "sixteen_bit"),
)
"""Settings that a check has to share with a run, to see the same images in the same splits."""
READ = (*SHOWN, "max_pixels", "draft", "follow_links")
"""Settings of the data that a check reads."""


def masks(cfg: DataConfig, prompts: PromptConfig) -> Images:
    """List images with their masks, by name; see `sources.masks`. The masks need no classes or prompts here."""
    top, ignored = existing(cfg.root, "masks"), Counter()
    found, called = class_maps.chosen_places(top, cfg)
    files = {split: class_maps.matched_files(place, ignored) for split, place in found.items()}
    files = shared_out(files, cfg, top)
    splits = {
        split: Split(split, [image for image, _ in files[split]], {}, (), str(top))
        for split in SPLITS
        if split in files
    }
    source = Source("masks", (), splits, dict(+ignored), origins(cfg, called, ""))
    return Images(source, masks=[mask for split in splits for _, mask in files[split]])


def _manifest(cfg: DataConfig) -> Images:
    """List the images of a manifest, with boxes if it has columns of them."""
    if box_manifest.has_boxes(cfg):
        return Images.with_boxes(box_manifest.boxes(cfg))
    return Images(manifest.either(cfg))


def _shards(cfg: DataConfig) -> Images:
    """List the images of shards, with the field that they were written with."""
    field = read_folder(existing(cfg.root, "shards")).field
    source = shards.shards(cfg, field)
    if field != "boxes":
        return Images(source)
    held = [split.fields["boxes"] for split in source.splits.values()]
    rows = np.concatenate([one.rows for one in held])
    counts = np.concatenate([one.counts for one in held])
    boxes = Boxes(
        row=np.repeat(np.arange(len(counts)), counts),
        corners=rows[:, :4].astype(np.float64),
        label=rows[:, 4].astype(np.int32),
        names={},
        files=[""] * len(counts),
        broken={},
        place=lambda box: f"box {box}",
        crowd=rows[:, 5] > 0,
    )
    return Images(source, boxes)


def _stored(listing: Callable[[DataConfig, str], Source], cfg: DataConfig) -> Images:
    """List stored images with one class each, or else with several."""
    try:
        return Images(listing(cfg, "label"))
    except SeveralClasses:
        return Images(listing(cfg, "labels"))


LISTERS: Mapping[str, Callable[[DataConfig, PromptConfig], Images]] = {
    "folder": lambda cfg, prompts: Images(folder.folder(cfg)),
    "images": lambda cfg, prompts: Images(folder.images(cfg)),
    "manifest": lambda cfg, prompts: _manifest(cfg),
    "masks": masks,
    "voc": lambda cfg, prompts: Images.with_boxes(voc_boxes.voc(cfg)),
    "coco": lambda cfg, prompts: Images.with_boxes(coco_boxes.coco(cfg, prompts.annotations)),
    "yolo": lambda cfg, prompts: Images.with_boxes(yolo.yolo(cfg)),
    "shards": lambda cfg, prompts: _shards(cfg),
    "tfds": lambda cfg, prompts: _stored(tfds.tfds, cfg),
    "hf": lambda cfg, prompts: _stored(hf.hf, cfg),
}
"""data.name -> the function that lists its images."""


def listed(cfg: DataConfig, prompts: PromptConfig) -> Images:
    """List the images of the source named by `cfg.name`.

    Raises:
      UserError: for an unknown name, a missing root, a root without images, a setting that the source does not read,
        and for any error of the source.
    """
    if cfg.name not in LISTERS:
        raise UserError(f"unknown data source {cfg.name!r}; {did_you_mean(cfg.name, list(LISTERS))}")
    if not cfg.root:
        raise UserError("there are no images without a root: give --root DIR, the folder (or manifest) to check")
    _check_read(cfg, prompts)
    found = LISTERS[cfg.name](cfg, prompts)
    if not len(found):
        raise UserError(f"{Path(cfg.root)} holds no images that data.name={cfg.name} reads")
    if not cfg.follow_links:
        check_links(found.source, cfg.root)
    return found


def command(cfg: DataConfig) -> str:
    """Return the command that checks the data of these settings; "" for data that it does not read."""
    if cfg.name not in LISTERS or not cfg.root:
        return ""
    default = DataConfig(name=cfg.name, root=cfg.root)
    changed = [field.name for field in dataclasses.fields(cfg) if field.name in SHOWN]
    more = [f"--data.{name}={getattr(cfg, name)}" for name in changed if getattr(cfg, name) != getattr(default, name)]
    return shlex.join(["jaxdino", "check-data", "--root", cfg.root, "--name", cfg.name, *more])


def _check_read(cfg: DataConfig, prompts: PromptConfig) -> None:
    """Raise UserError for a setting that differs from its default and that this source does not read."""
    reads = (*SOURCES[cfg.name].reads, *(OF_MASKS if cfg.name == "masks" else ()))
    for name, flag in OF_SOURCES.items():
        given, default = (cfg, DataConfig()) if hasattr(cfg, name) else (prompts, PromptConfig())
        value = getattr(given, name)
        if value != getattr(default, name) and name not in reads:
            readers = ", ".join(key for key, source in SOURCES.items() if name in source.reads)
            raise UserError(f"{flag}={value} is for data.name={readers}; {cfg.name!r} does not read it: leave it out")
