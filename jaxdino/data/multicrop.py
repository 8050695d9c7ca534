"""Batches of several crops of each image, for self-distillation: decoded once, cut on the host, uint8 out.

A batch is a dict of arrays, B being the batch of one host, G and L the global and local crops of an image:
  global  uint8 (B, G, S, S, 3)
  local   uint8 (B, L, s, s, 3), absent where L = 0
  mask    bool (B, G, h, w), the hidden patches of the global crops, absent without masking
and label, weight and index as in `pipeline`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdino.data.checks import open_rgb
from jaxdino.data.masking import Masking
from jaxdino.data.pipeline import Batch, TrainIter, read_row, train_batches
from jaxdino.data.sources import DataConfig, Split
from jaxdino.data.transforms import draft_scale, get_filter, random_crop_box, resized_crop
from jaxdino.data.views import KINDS, View, check, expanded

REDUCING_GAP = 2.0  # crops of large images differ by less than one level from those of the full filter


def make_multicrop_iter(
    split: Split,
    cfg: DataConfig | Mapping | None = None,
    *,
    seed: int,
    batch_size: int,
    views: Sequence[View | Mapping],
    masking: Masking | Mapping | None = None,
    interpolation: str = "bicubic",
    process_index: int = 0,
    process_count: int = 1,
) -> TrainIter:
    """An endless iterator of multi-crop batches; order, crops and masks follow from the seed alone.

    Epochs, hosts, resuming and bad images are those of `pipeline.make_train_iter`.

    Args:
      split: what to read; its labels travel along.
      cfg: threads, workers, max_pixels, on_bad, draft (see `DataConfig`).
      seed: at least 0.
      batch_size: images, global, over all hosts.
      views: the recipes (see `views.check`); only crop and size are looked at here.
      masking: which patches of the global crops are hidden; None is no mask.
      interpolation: of the resize; "bicubic", "bilinear", ...
      process_index, process_count: this host among all.

    Raises:
      UserError: for views or a masking that cannot be, a batch larger than the split or not divisible by the
        hosts; under on_bad="stop", while iterating, the first bad image.
    """
    cfg, views = DataConfig.of(cfg), check(views)
    get_filter(interpolation)
    crops = {kind: expanded(views, kind) for kind in KINDS if expanded(views, kind)}
    masks = None
    if masking is not None:
        masking = Masking.of(masking)
        grid = masking.grid(crops["global"][0].size)
        masks = Masks(masking, masking.counts(batch_size, grid, len(crops["global"])), grid)
    read = ReadCrops(CropTransform(crops, interpolation, cfg.max_pixels, cfg.draft), masks)
    return train_batches(split, cfg, read, seed, batch_size, process_index, process_count)


@dataclasses.dataclass(frozen=True)
class CropTransform:
    """Record and random generator -> {kind: uint8 (V, S, S, 3)} of random resized crops. Raises BadImage.

    A JPEG is decoded smaller only where every crop still gets as many pixels as it has itself.
    """

    crops: Mapping[str, tuple[View, ...]]
    interpolation: str
    max_pixels: int
    draft: bool

    def __call__(self, record: str | np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        every = [view for kind in self.crops.values() for view in kind]
        seen: dict[str, Any] = {}

        def draft(full: tuple[int, int]) -> int:
            seen["full"] = full
            seen["boxes"] = [random_crop_box(*full, view.scale, view.ratio, rng) for view in every]
            scales = [draft_scale(box, _size(view)) for box, view in zip(seen["boxes"], every, strict=True)]
            return min(scales) if self.draft else 1

        image = open_rgb(record, self.max_pixels, draft)
        boxes = iter(seen["boxes"])
        found = {}
        for kind, views in self.crops.items():
            found[kind] = np.empty((len(views), *_size(views[0]), 3), np.uint8)
            for row, view in zip(found[kind], views, strict=True):
                cut = (next(boxes), _size(view), self.interpolation, REDUCING_GAP)
                row[...] = resized_crop(image, seen["full"], *cut)
        return found


@dataclasses.dataclass(frozen=True)
class Masks:
    """What is hidden of the image at each place of a batch: `counts` (B, G) patches of its views."""

    masking: Masking
    counts: np.ndarray
    grid: tuple[int, int]

    def __call__(self, place: int, rng: np.random.Generator) -> np.ndarray:
        return self.masking.draw(rng, self.counts[place], self.grid)


@dataclasses.dataclass(frozen=True)
class ReadCrops:
    """Element with a record -> element with crops and, where wanted, masks."""

    crop: CropTransform
    masks: Masks | None

    def __call__(self, element: dict[str, Any], rng: np.random.Generator) -> Batch:
        shapes = {kind: (len(views), *_size(views[0])) for kind, views in self.crop.crops.items()}
        row = read_row(element, shapes, lambda record: self.crop(record, rng))
        return row if self.masks is None else {**row, "mask": self.masks(element["place"], rng)}


def _size(view: View) -> tuple[int, int]:
    return view.size, view.size
