"""Crops of an image and its mask together, and points and boxes taken from the mask. On the host.

Points are x, y in pixels of the crop, the first pixel's centre being (0, 0), as SAM counts them.
"""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

from jaxdino.core.resize import Resize
from jaxdino.data.bad_images import BadImage
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image
from jaxdino.data.pairs import IGNORED, Pair
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.transforms import draft_scale, eval_crop, random_crop_box, resized_crop

Box = tuple[int, int, int, int]
Crop = tuple[np.ndarray, np.ndarray | None]
VISIBLE, TRIES = 0.1, 10  # a training crop shows this share of what is masked, if one of so many does
CLICK, NO_CLICK, TOP_LEFT, BOTTOM_RIGHT, NOTHING = 1, 0, 2, 3, -1
NOISE, MOST_NOISE = 0.1, 20.0  # of a box's corners: as a share of its sides, and in pixels


@dataclasses.dataclass(frozen=True)
class PairEvalTransform:
    """Pair -> uint8 image (H, W, 3) and mask (H, W) of the centre; the mask is None if the pair's is.

    As `transforms.EvalTransform`, the mask by its nearest pixels. Raises BadImage, for sizes that differ too.
    """

    size: tuple[int, int]
    how: Resize
    reading: Reading

    def __call__(self, record: Pair, mask: np.ndarray | None, rng: np.random.Generator | None = None) -> Crop:
        image = open_image(record.image, self.reading)
        check_sizes(image.size, mask)
        cut = np.asarray(eval_crop(image, self.size, self.how))
        if mask is None:
            return cut, None
        nearest = dataclasses.replace(self.how, interpolation="nearest", fill=(IGNORED,))
        return cut, np.asarray(eval_crop(Image.fromarray(mask), self.size, nearest))


@dataclasses.dataclass(frozen=True)
class PairTrainTransform:
    """Pair and random generator -> uint8 image (H, W, 3) and mask (H, W) of one random resized crop.

    The box is drawn up to ten times, until it has a tenth of what the mask shows; the last one is taken
    else, and its mask may be empty, which is then true of what is seen. Raises BadImage.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: str
    reading: Reading
    draft: bool

    def __call__(self, record: Pair, mask: np.ndarray | None, rng: np.random.Generator) -> Crop:
        seen: dict[str, Any] = {}

        def draft(full: tuple[int, int]) -> int:
            check_sizes(full, mask)
            seen["full"], seen["box"] = full, self._box(full, mask, rng)
            return draft_scale(seen["box"], self.size) if self.draft else 1

        image = open_image(record.image, self.reading, draft)
        full, box = seen["full"], seen["box"]
        cut = np.asarray(resized_crop(image, full, box, self.size, self.interpolation))
        if mask is None:
            return cut, None
        return cut, np.asarray(resized_crop(Image.fromarray(mask), full, box, self.size, "nearest"))

    def _box(self, full: tuple[int, int], mask: np.ndarray | None, rng: np.random.Generator) -> Box:
        inside = None if mask is None else mask == 1
        needed = 0 if inside is None else VISIBLE * np.count_nonzero(inside)
        for _ in range(TRIES):
            left, top, right, bottom = random_crop_box(*full, self.scale, self.ratio, rng)
            if not needed or np.count_nonzero(inside[top:bottom, left:right]) >= needed:
                break
        return left, top, right, bottom


def check_sizes(full: tuple[int, int], mask: np.ndarray | None) -> None:
    """Raises BadImage for a mask (H, W) that is not of the image's (width, height)."""
    if mask is not None and mask.shape != full[::-1]:
        wide, tall = mask.shape[::-1]
        raise BadImage(f"the image has {full[0]} x {full[1]} pixels, its mask {wide} x {tall}")


def flipped(crop: Crop, hflip: float, vflip: float, rng: np.random.Generator) -> Crop:
    """Mirrors image and mask together, left to right and top to bottom, with the given chances."""
    for axis, chance in ((1, hflip), (0, vflip)):
        if chance and rng.random() < chance:
            crop = tuple(None if part is None else np.flip(part, axis) for part in crop)
    return crop


def no_points(slots: int) -> dict[str, np.ndarray]:
    """A row's `points` (K, 2) and `point_labels` (K,) without any; nothing where K = 0."""
    if not slots:
        return {}
    return {"points": np.zeros((slots, 2), np.float32), "point_labels": np.full(slots, NOTHING, np.int32)}


def draw_points(mask: np.ndarray | None, prompts: PromptConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A training row's points: 1 to `prompts.points` clicks, and a box, each with the chance `spatial_prob`.

    The first click is in the mask, others in or out of it at even chances. Corners of the box are moved by a normal
    error of 10% of its sides, 20 pixels at most. A row without a mask, or with an empty one, gets none.

    Source: "Segment Anything" (Kirillov et al., 2023), appendix A, training algorithm, for clicks and the box's noise.
    """
    row = no_points(prompts.slots)
    if not row or mask is None or not (mask == 1).any():
        return row
    if prompts.points and rng.random() < prompts.spatial_prob:
        _clicks(row, mask, int(rng.integers(1, prompts.points + 1)), rng)
    if prompts.boxes and rng.random() < prompts.spatial_prob:
        box = mask_box(mask)
        side = np.tile(box[1] - box[0] + 1, (2, 1))
        error = np.clip(rng.normal(0, NOISE, (2, 2)) * side, -MOST_NOISE, MOST_NOISE)
        _corners(row, np.clip(box + error, 0, np.array(mask.shape[::-1]) - 1))
    return row


def fixed_points(mask: np.ndarray | None, prompts: PromptConfig, index: int) -> dict[str, np.ndarray]:
    """An evaluated row's points: all its clicks, drawn for its place in the split alone, and the exact box."""
    row = no_points(prompts.slots)
    if not row or mask is None or not (mask == 1).any():
        return row
    if prompts.points:
        _clicks(row, mask, prompts.points, np.random.default_rng(index))
    if prompts.boxes:
        _corners(row, mask_box(mask))
    return row


def mask_box(mask: np.ndarray) -> np.ndarray:
    """float64 (2, 2): the first and last x, y of a mask's ones, which it must have."""
    rows, columns = np.nonzero(mask == 1)
    return np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]], np.float64)


def _clicks(row: dict[str, np.ndarray], mask: np.ndarray, count: int, rng: np.random.Generator) -> None:
    """Writes `count` clicks into the first places."""
    places = {CLICK: np.argwhere(mask == 1), NO_CLICK: np.argwhere((mask != 1) & (mask != IGNORED))}
    for slot in range(count):
        inside = slot == 0 or not len(places[NO_CLICK]) or rng.random() < 0.5
        label = CLICK if inside else NO_CLICK
        row["points"][slot] = rng.choice(places[label])[::-1]
        row["point_labels"][slot] = label


def _corners(row: dict[str, np.ndarray], box: np.ndarray) -> None:
    """Writes a box (2, 2) into the last two places."""
    row["points"][-2:], row["point_labels"][-2:] = box, (TOP_LEFT, BOTTOM_RIGHT)
