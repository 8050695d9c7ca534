"""Batches of pairs: an image, a prompt, and the mask of the prompt.

A batch is a dict of arrays. B is the batch size of one host, K the number of point slots (`PromptConfig.slots`):
  image         uint8 (B, H, W, 3)
  mask          uint8 (B, H, W), 1 where the mask shows the prompt, 0 elsewhere, 255 where ignored
  masked        float32 (B,), 0 for an image without a mask (then all 0)
  label         int32 (B,), index of the prompt in the source's names
  points        float32 (B, K, 2), x, y in pixels of the crop; absent if K = 0
  point_labels  int32 (B, K): 1 and 0 are clicks inside and outside the mask, 2 and 3 the top left and bottom right
                corner of a box, -1 is an empty slot; absent if K = 0
and weight and index as in `pipeline`. A row with masked 1 may have an empty mask: negatives, crops that miss the mask,
and pairs with empty masks that are kept.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.data.bad_images import BadImage
from jaxdino.data.pair_transforms import (
    Crop,
    PairEvalTransform,
    PairTrainTransform,
    draw_points,
    fixed_points,
    flipped,
    no_points,
)
from jaxdino.data.pairs import IGNORED, Pair
from jaxdino.data.pipeline import DEFAULT, EvalBatches, TrainIter, eval_batches, train_batches
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.rows import Batch, filled_row
from jaxdino.data.sources import DataConfig, Split
from jaxdino.data.transforms import as_size, get_filter, get_preset


def make_pair_train_iter(
    split: Split,
    cfg: DataConfig | Mapping | None = None,
    prompts: PromptConfig | Mapping | None = None,
    *,
    seed: int,
    batch_size: int,
    image_size: int | tuple[int, int],
    preset: str | Mapping[str, Any] = "light",
    resize: Resize = DEFAULT,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainIter:
    """Return an endless iterator of training batches of pairs; epochs, order, hosts, resuming as `make_train_iter`.

    Crops and flips of the preset are applied here, to image and mask together; colour changes are left to the device
    (`transforms.colour_only`).

    Args:
      split: a split of a source of `pair_sources.load_pairs`.
      prompts: negatives, points, boxes, spatial_prob, empty (see `PromptConfig`).
      others: as `pipeline.make_train_iter`.

    Raises:
      UserError: as `make_train_iter`, and if `negatives` is set and there is only one prompt.
    """
    cfg, prompts, size, preset = DataConfig.of(cfg), PromptConfig.of(prompts), as_size(image_size), get_preset(preset)
    get_filter(resize.interpolation)
    if prompts.negatives and len(split.class_names) < 2:
        raise UserError(f"prompts.negatives is {prompts.negatives}, but there is one prompt only: set it to 0")
    crop = PairEvalTransform(size, resize, cfg.reading())
    if preset["scale"] is not None:
        scale, ratio = tuple(preset["scale"]), tuple(preset["ratio"])
        crop = PairTrainTransform(size, scale, ratio, resize.interpolation, cfg.reading(), cfg.draft)
    flips = preset["hflip"], preset["vflip"]
    read = ReadPairTrain(crop, size, prompts, cfg.max_pixels, flips, len(split.class_names))
    return train_batches(split, cfg, read, seed, batch_size, process_index, process_count)


def make_pair_eval_iter(
    split: Split,
    cfg: DataConfig | Mapping | None = None,
    prompts: PromptConfig | Mapping | None = None,
    *,
    batch_size: int,
    image_size: int | tuple[int, int],
    resize: Resize = DEFAULT,
    spatial: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> EvalBatches:
    """Return every pair once, in order, resized and centre-cropped; the last batch is padded with weight 0.

    Args:
      spatial: whether each row gets all its clicks and its box, the same in each pass; otherwise only the text.
      others: as `make_pair_train_iter`.
    """
    cfg, prompts, size = DataConfig.of(cfg), PromptConfig.of(prompts), as_size(image_size)
    crop = PairEvalTransform(size, resize, cfg.reading())
    get_filter(resize.interpolation)
    read = ReadPairEval(crop, size, prompts, cfg.max_pixels, spatial)
    return eval_batches(split, cfg, read, batch_size, process_index, process_count)


@dataclasses.dataclass(frozen=True)
class ReadPairTrain:
    """Map an element with a pair to an element with a random crop, sometimes with a negative prompt."""

    crop: PairTrainTransform | PairEvalTransform
    size: tuple[int, int]
    prompts: PromptConfig
    max_pixels: int
    flips: tuple[float, float]
    num_prompts: int

    def __call__(self, element: dict[str, Any], rng: np.random.Generator) -> Batch:
        return filled_row(element, _blank(self.size, self.prompts), lambda pair: self._read(pair, rng))

    def _read(self, pair: Pair, rng: np.random.Generator) -> Batch:
        mask, found = whole_mask(pair, self.prompts, self.max_pixels), {}
        if mask is not None and rng.random() < self.prompts.negatives:
            absent = [label for label in range(self.num_prompts) if label not in pair.present]
            if absent:
                found["label"] = np.int32(rng.choice(absent))
                mask = np.where(mask == IGNORED, mask, np.uint8(0))
        crop = flipped(self.crop(pair, mask, rng), *self.flips, rng)
        return found | _row(crop, self.size) | draw_points(crop[1], self.prompts, rng)


@dataclasses.dataclass(frozen=True)
class ReadPairEval:
    """Map an element with a pair to an element with its centre crop."""

    crop: PairEvalTransform
    size: tuple[int, int]
    prompts: PromptConfig
    max_pixels: int
    spatial: bool

    def __call__(self, element: dict[str, Any]) -> Batch:
        return filled_row(element, _blank(self.size, self.prompts), lambda pair: self._read(pair, element["index"]))

    def _read(self, pair: Pair, index: int) -> Batch:
        crop = self.crop(pair, whole_mask(pair, self.prompts, self.max_pixels))
        points = fixed_points(crop[1], self.prompts, index) if self.spatial else no_points(self.prompts.slots)
        return _row(crop, self.size) | points


def whole_mask(pair: Pair, prompts: PromptConfig, max_pixels: int) -> np.ndarray | None:
    """Return a pair's mask before cropping. Raise BadImage for an empty mask, unless these are kept."""
    mask = pair.read_mask(max_pixels)
    if mask is not None and prompts.empty == "skip" and not (mask == 1).any():
        raise BadImage('its mask is empty (prompts.empty = "keep" keeps it)')
    return mask


def _row(crop: Crop, size: tuple[int, int]) -> Batch:
    image, mask = crop
    masked = np.float32(mask is not None)
    return {"image": image, "mask": np.zeros(size, np.uint8) if mask is None else mask, "masked": masked}


def _blank(size: tuple[int, int], prompts: PromptConfig) -> Callable[[], Batch]:
    """Return a function that makes the row of a pair that could not be read."""
    return lambda: _row((np.zeros((*size, 3), np.uint8), None), size) | no_points(prompts.slots)
