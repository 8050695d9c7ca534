"""Random displacements: where each pixel of a result reads from, relative to its own place.

Sizes are (height, width) in pixels. Displacements are float64 (H, W, 2), x and y in pixels.
"""

import numpy as np

from jaxdino.data.crops import centres

NODES = 3  # a side of the grid of random displacements
CELLS = 5  # along each side, of the distorted grid


def elastic(size: tuple[int, int], strength: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a smooth displacement: normal vectors on a coarse grid of 3 x 3 nodes, interpolated by bicubic splines.

    Args:
      strength: standard deviation at the nodes, as a share of each side.

    Source: Ronneberger et al. 2015, U-Net (arXiv:1505.04597), section 3.1.
    """
    from scipy.ndimage import map_coordinates  # a tenth of the time of a start, and few runs distort

    nodes = rng.normal(0, strength, (2, NODES, NODES)) * np.array(size[::-1]).reshape(2, 1, 1)
    at = (centres(size) / size[::-1] * (NODES - 1)).transpose(2, 0, 1)[::-1]
    return np.stack([map_coordinates(node, at, order=3, mode="nearest") for node in nodes], axis=-1)


def grid(size: tuple[int, int], strength: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a displacement that stretches and squeezes the 5 columns and the 5 rows of a grid; the edges stay.

    Args:
      strength: the width that each column reads is multiplied by 1 - strength to 1 + strength; then all are scaled to
        fill the image.

    Source: albumentations 1.4 GridDistortion, with normalized=True.
    """
    return stretched(size, *(rng.uniform(1 - strength, 1 + strength, CELLS) for _ in range(2)))


def stretched(size: tuple[int, int], columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the displacement of a grid whose columns and rows read widths in these proportions."""
    at = centres(size)
    moved = np.empty_like(at)
    for axis, (widths, side) in enumerate(zip((columns, rows), size[::-1], strict=True)):
        edges = np.linspace(0, side, len(widths) + 1)
        read = np.concatenate([[0], np.cumsum(widths)]) * (side / np.sum(widths))
        moved[..., axis] = np.interp(at[..., axis], edges, read)
    return moved - at
