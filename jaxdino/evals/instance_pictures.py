"""Pictures of objects with masks: each object in a colour of its own over the image."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxdino.evals.detection_pictures import boxes_over

SHARE = 0.5  # of the colour in a region
TURN = 0.618033988749895  # of the circle of hues, from one object to the next: neighbours differ


def colour(number: int) -> tuple[int, int, int]:
    """Return the colour of an object, by its number."""
    red, green, blue = colorsys.hsv_to_rgb((number * TURN) % 1, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def regions_over(
    image: np.ndarray, ids: np.ndarray, labels: np.ndarray, class_names: Sequence[str], named: bool = False
) -> Image.Image:
    """Draw regions over an image, with white edges.

    Args:
      image: uint8 (H, W, C). ids: int (H, W), 1 to n; 0 and below is nothing. labels: (n,). named: whether the class of
        each object is written into a box around it.
    """
    shown = image if image.shape[2] == 3 else image[..., [0, 0, 0]]
    table = np.array([(0, 0, 0), *(colour(number) for number in range(1, len(labels) + 1))], np.float32)
    inside = ids > 0
    mixed = shown.astype(np.float32)
    mixed[inside] = (1 - SHARE) * mixed[inside] + SHARE * table[ids[inside]]
    edge = np.zeros(ids.shape, bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    mixed[edge & inside] = 255
    pixels = np.rint(mixed).astype(np.uint8)
    if not named:
        return Image.fromarray(pixels)
    rows = [
        (x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in (np.nonzero(ids == n + 1) for n in range(len(labels)))
    ]
    return boxes_over(pixels, np.array(rows, float).reshape(-1, 4), labels, class_names)
