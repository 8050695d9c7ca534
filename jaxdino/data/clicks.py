"""Draw points and boxes from a mask, on the host.

Points are x, y in pixels of the crop; the centre of the first pixel is (0, 0), as in SAM.
"""

import numpy as np

from jaxdino.data.mask_reading import IGNORED
from jaxdino.data.prompts import PromptConfig

CLICK, NO_CLICK, TOP_LEFT, BOTTOM_RIGHT, NOTHING = 1, 0, 2, 3, -1
NOISE, MOST_NOISE = 0.1, 20.0  # noise of a box's corners: as a share of its sides, and its limit in pixels


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


def fixed_points(mask: np.ndarray | None, prompts: PromptConfig, seed: int) -> dict[str, np.ndarray]:
    """Return an evaluation row's points: all clicks, which depend only on the seed, and the exact box."""
    row = no_points(prompts.slots)
    if not row or mask is None or not (mask == 1).any():
        return row
    if prompts.points:
        _clicks(row, mask, prompts.points, np.random.default_rng(seed))
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
