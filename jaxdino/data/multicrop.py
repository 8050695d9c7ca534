"""Batches of several crops of each image, for self-distillation: decoded once, cropped on the host, uint8 output.

A batch is a dict of arrays. B is the batch size of one host, G and L are the global and local crops of an image:
  global  uint8 (B, G, S, S, C)
  local   uint8 (B, L, s, s, C), absent if L = 0
  mask    bool (B, G, h, w), the hidden patches of the global crops, absent without masking
and label, weight and index as in `pipeline`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxdino.data.bands import Picture, of_levels, pixels
from jaxdino.data.channels import RGB, Reading
from jaxdino.data.checks import open_image
from jaxdino.data.masking import Masking
from jaxdino.data.pipeline import Batch, TrainIter, read_row, train_batches
from jaxdino.data.sources import DataConfig, Split
from jaxdino.data.transforms import draft_scale, get_filter, random_crop_box, resized_crop
from jaxdino.data.views import KINDS, View, check, expanded

MARGIN = 2  # pixels around a rotated box that the interpolation reads
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
    channels: int = RGB,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainIter:
    """Return an endless iterator of multi-crop batches; order, crops and masks depend only on the seed.

    Epochs, hosts, resuming and bad images are those of `pipeline.make_train_iter`.

    Args:
      split: the split to read; its labels are in the batches.
      cfg: threads, workers, max_pixels, sixteen_bit, on_bad, draft (see `DataConfig`).
      seed: at least 0.
      batch_size: images, global, over all hosts.
        views: the recipes (see `views.check`); only crop and size are used here.
        masking: how patches of the global crops are hidden; None for no mask.
        interpolation: of the resize; "bicubic", "bilinear", ...
        channels: C of the crops.
        process_index, process_count: index of this host and number of hosts.

      Raises:
        UserError: for invalid views or masking, or a batch larger than the split or not divisible by the number of
          hosts; with on_bad="stop", at the first bad image during iteration.
    """
    cfg, views = DataConfig.of(cfg), check(views)
    get_filter(interpolation)
    crops = {kind: expanded(views, kind) for kind in KINDS if expanded(views, kind)}
    masks = None
    if masking is not None:
        masking = Masking.of(masking)
        grid = masking.grid(crops["global"][0].size)
        masks = Masks(masking, masking.counts(batch_size, grid, len(crops["global"])), grid)
    read = ReadCrops(CropTransform(crops, interpolation, cfg.reading(channels), cfg.draft), masks)
    return train_batches(split, cfg, read, seed, batch_size, process_index, process_count)


@dataclasses.dataclass(frozen=True)
class CropTransform:
    """Crop a record: (record, random generator) -> {kind: uint8 (V, S, S, C)} of random resized crops.

    Raises BadImage. A JPEG is decoded at a smaller scale only if every crop keeps at least its output resolution.
    """

    crops: Mapping[str, tuple[View, ...]]
    interpolation: str
    reading: Reading
    draft: bool

    def __call__(self, record: str | np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        every = [view for kind in self.crops.values() for view in kind]
        seen: dict[str, Any] = {}

        def draft(full: tuple[int, int]) -> int:
            seen["full"] = full
            seen["boxes"] = [random_crop_box(*full, view.scale, view.ratio, rng) for view in every]
            seen["angles"] = [rng.uniform(-x, x) if x else 0.0 for x in (view.degrees for view in every)]
            scales = [draft_scale(box, _size(view)) for box, view in zip(seen["boxes"], every, strict=True)]
            return min(scales) if self.draft else 1

        image = open_image(record, self.reading, draft)
        cuts = zip(seen["boxes"], seen["angles"], strict=True)
        found = {}
        for kind, views in self.crops.items():
            found[kind] = np.empty((len(views), *_size(views[0]), self.reading.channels), np.uint8)
            for row, view in zip(found[kind], views, strict=True):
                box, angle = next(cuts)
                cut = (image, seen["full"], box, _size(view), self.interpolation, REDUCING_GAP)
                row[...] = pixels(turned_crop(*cut, degrees=angle) if angle else resized_crop(*cut))
        return found


def turned_crop(
    image: Picture,
    full: tuple[int, int],
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    interpolation: str,
    reducing_gap: float | None,
    *,
    degrees: float,
) -> Picture:
    """Crop and resize as `transforms.resized_crop`, with the box rotated about its centre (content counter-clockwise).

    The bounding box of the rotated box is resized to the output scale with antialias, then rotated with bilinear
    interpolation. Edge pixels are repeated beyond the image.
    """
    sides = np.array(size[::-1])
    box_low, box_high = np.array(box).reshape(2, 2) * image.size / np.array(full)
    middle, box_sides = (box_low + box_high) / 2, box_high - box_low
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])
    reach = np.abs(turn) @ box_sides / 2
    low = np.floor(middle - reach).astype(int) - MARGIN
    high = np.ceil(middle + reach).astype(int) + MARGIN
    shape = np.maximum(1, np.rint((high - low) * sides / box_sides)).astype(int)
    spanned = _spanned(image, (*low.tolist(), *high.tolist()))
    region = spanned.resize(tuple(shape.tolist()), get_filter(interpolation), reducing_gap=reducing_gap)
    scale = shape / (high - low)
    step = scale[:, None] * turn * (box_sides / sides)
    start = scale * (middle - low) - step @ sides / 2
    matrix = np.column_stack([step, start]).ravel().tolist()
    return region.transform(size[::-1], Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _spanned(image: Picture, box: tuple[int, int, int, int]) -> Picture:
    """Crop a box that may reach beyond the image; edge pixels are repeated there."""
    inside = [min(max(box[0], 0), image.width - 1), min(max(box[1], 0), image.height - 1)]
    inside += [max(min(box[2], image.width), 1), max(min(box[3], image.height), 1)]
    if tuple(inside) == box:
        return image.crop(box)
    rows, columns = (inside[1] - box[1], box[3] - inside[3]), (inside[0] - box[0], box[2] - inside[2])
    return of_levels(np.pad(pixels(image.crop(inside)), (rows, columns, (0, 0)), mode="edge"))


@dataclasses.dataclass(frozen=True)
class Masks:
    """Draw the masks of the image at each position of a batch: `counts` (B, G) hidden patches of its views."""

    masking: Masking
    counts: np.ndarray
    grid: tuple[int, int]

    def __call__(self, place: int, rng: np.random.Generator) -> np.ndarray:
        return self.masking.draw(rng, self.counts[place], self.grid)


@dataclasses.dataclass(frozen=True)
class ReadCrops:
    """Map an element with a record to an element with crops and, if enabled, masks."""

    crop: CropTransform
    masks: Masks | None

    def __call__(self, element: dict[str, Any], rng: np.random.Generator) -> Batch:
        shapes = {
            kind: (len(views), *_size(views[0]), self.crop.reading.channels) for kind, views in self.crop.crops.items()
        }
        row = read_row(element, shapes, lambda record: self.crop(record, rng))
        return row if self.masks is None else {**row, "mask": self.masks(element["place"], rng)}


def _size(view: View) -> tuple[int, int]:
    return view.size, view.size
