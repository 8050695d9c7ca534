"""Crop an image and its mask together, and draw points and boxes from the mask. On the host.

Points are x, y in pixels of the crop; the centre of the first pixel is (0, 0), as in SAM.
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
VISIBLE, TRIES = 0.1, 10  # smallest share of the mask in a training crop, and attempts to draw that crop
CLICK, NO_CLICK, TOP_LEFT, BOTTOM_RIGHT, NOTHING = 1, 0, 2, 3, -1
NOISE, MOST_NOISE = 0.1, 20.0  # noise of a box's corners: as a share of its sides, and its limit in pixels


@dataclasses.dataclass(frozen=True)
class PairEvalTransform:
    """Map a pair to a uint8 image (H, W, 3) and mask (H, W) of the centre; the mask is None if the pair has none.

    As `transforms.EvalTransform`, with nearest-neighbour masks. Raises BadImage, also if the sizes differ.
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
    """Map a pair and a random generator to a uint8 image (H, W, 3) and mask (H, W) of one random resized crop.

    The box is drawn up to ten times, until it contains a tenth of the mask. Otherwise the last box is used, and its
    mask may be empty, which is correct for that crop. Raises BadImage.
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
    """Raise BadImage if a mask (H, W) does not have the image's (width, height)."""
    if mask is not None and mask.shape != full[::-1]:
        wide, tall = mask.shape[::-1]
        raise BadImage(f"the image has {full[0]} x {full[1]} pixels, its mask {wide} x {tall}")


def flipped(crop: Crop, hflip: float, vflip: float, rng: np.random.Generator) -> Crop:
    """Flip image and mask together, horizontally and vertically, with the given probabilities."""
    for axis, chance in ((1, hflip), (0, vflip)):
        if chance and rng.random() < chance:
            crop = tuple(None if part is None else np.flip(part, axis) for part in crop)
    return crop


def no_points(slots: int) -> dict[str, np.ndarray]:
    """Return empty `points` (K, 2) and `point_labels` (K,) of a row; an empty dict if K = 0."""
    if not slots:
        return {}
    return {"points": np.zeros((slots, 2), np.float32), "point_labels": np.full(slots, NOTHING, np.int32)}


def draw_points(mask: np.ndarray | None, prompts: PromptConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw a training row's points: 1 to `prompts.points` clicks, and a box, each with probability `spatial_prob`.

    The first click is inside the mask, the others inside or outside with equal probability. The box corners get
    normal noise of 10% of the box sides, at most 20 pixels. A row without a mask, or with an empty one, gets none.

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
    """Return an evaluation row's points: all clicks, seeded only by its index in the split, and the exact box."""
    row = no_points(prompts.slots)
    if not row or mask is None or not (mask == 1).any():
        return row
    if prompts.points:
        _clicks(row, mask, prompts.points, np.random.default_rng(index))
    if prompts.boxes:
        _corners(row, mask_box(mask))
    return row


def mask_box(mask: np.ndarray) -> np.ndarray:
    """Return float64 (2, 2): the first and last x, y of a mask's ones; the mask must not be empty."""
    rows, columns = np.nonzero(mask == 1)
    return np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]], np.float64)


def _clicks(row: dict[str, np.ndarray], mask: np.ndarray, count: int, rng: np.random.Generator) -> None:
    """Write `count` clicks into the first slots."""
    places = {CLICK: np.argwhere(mask == 1), NO_CLICK: np.argwhere((mask != 1) & (mask != IGNORED))}
    for slot in range(count):
        inside = slot == 0 or not len(places[NO_CLICK]) or rng.random() < 0.5
        label = CLICK if inside else NO_CLICK
        row["points"][slot] = rng.choice(places[label])[::-1]
        row["point_labels"][slot] = label


def _corners(row: dict[str, np.ndarray], box: np.ndarray) -> None:
    """Write a box (2, 2) into the last two slots."""
    row["points"][-2:], row["point_labels"][-2:] = box, (TOP_LEFT, BOTTOM_RIGHT)
