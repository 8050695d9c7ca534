"""All readers of the suite: how to make valid files for each, and how to read them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.soak import image_sets, runs, weights
from tests.soak.mutators import Rng

MB = 1 << 20


class Reader(NamedTuple):
    """One reader.

    Attributes:
      make: write valid files into an empty folder.
      read: read them, given the folder and the file that was changed. It may raise UserError or BadImage.
      room: how much the memory of the process may grow, in bytes, in addition to three times the size of the files.
      kept: suffixes of files that are never changed.
      fresh: whether reading changes the folder, so that each mutant needs a new copy.
    """

    make: Callable[[Path, Rng], None]
    read: Callable[[Path, Path], None]
    room: int = 200 * MB
    kept: tuple[str, ...] = ()
    fresh: bool = False


def _exported(layout: str, **options) -> Reader:
    return Reader(functools.partial(weights.exported, layout=layout, **options), weights.read_model)


def _manifest(suffix: str) -> Reader:
    return Reader(functools.partial(image_sets.make_manifests, suffix=suffix), image_sets.read_manifest, kept=(".jpg",))


def _boxes(form: str, suffix: str = "") -> Reader:
    make = functools.partial(image_sets.make_boxes, form=form, suffix=suffix)
    return Reader(make, functools.partial(image_sets.read_boxes, form=form), kept=(".png",))


READERS: dict[str, Reader] = {
    "json": Reader(weights.make_json, weights.read_any_json),
    "safetensors": Reader(weights.make_safetensors, weights.read_source),
    "torch": Reader(weights.make_torch, weights.read_source),
    "torchscript": Reader(weights.make_script, weights.read_source),
    "shards": Reader(weights.make_shards, weights.read_folder),
    "hf_folder": _exported("hf"),
    "timm_folder": _exported("timm"),
    "meta_folder": _exported("meta"),
    "model_folder": Reader(weights.make_own, weights.read_model),
    "training_folder": Reader(weights.make_training, weights.read_training),
    "adapter": Reader(weights.make_adapter, weights.read_adapter),
    "images": Reader(image_sets.make_images, image_sets.read_image),
    "masks": Reader(image_sets.make_masks, image_sets.read_masks, kept=(".jpg",)),
    "coco": Reader(image_sets.make_coco, image_sets.read_coco, kept=(".jpg",)),
    "voc": Reader(image_sets.make_voc, image_sets.read_voc, kept=(".jpg",)),
    "voc_objects": Reader(image_sets.make_voc_objects, image_sets.read_voc_objects, kept=(".jpg",)),
    "coco_objects": Reader(image_sets.make_coco, image_sets.read_coco_objects, kept=(".jpg",)),
    "data_shards": Reader(image_sets.make_shards, image_sets.read_shards, kept=("prepare.json",)),
    "manifest_csv": _manifest(".csv"),
    "manifest_jsonl": _manifest(".jsonl"),
    "text_lists": Reader(image_sets.make_text_lists, image_sets.read_text_lists, kept=(".jpg",)),
    "voc_boxes": _boxes("voc"),
    "coco_boxes": _boxes("coco"),
    "yolo": _boxes("yolo"),
    "boxes_csv": _boxes("manifest", ".csv"),
    "boxes_jsonl": _boxes("manifest", ".jsonl"),
    "run_folder": Reader(runs.make_run, runs.read_run, fresh=True),
}
