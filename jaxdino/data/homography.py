"""Maps of the plane as 3 x 3 matrices: rotation, shear, shift, zoom, perspective.

A matrix says where a place (x, y, 1) is after the map; `b @ a` is a, then b. Places are in pixels, y points down.
`rotation`, `shear` and `zoom` keep the origin: `about_centre` makes the centre of an image the point that they keep.
"""

import math
from collections.abc import Sequence

import numpy as np

CORNERS = ((0, 0), (1, 0), (1, 1), (0, 1))
"""Corners of an image, (x, y) as shares of its sides: top left, top right, bottom right, bottom left."""


def rotation(degrees: float) -> np.ndarray:
    """Return the rotation by an angle, counter-clockwise for the viewer."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def shear(x: float, y: float = 0.0) -> np.ndarray:
    """Return the shear along x by an angle in degrees, then along y: rows go left by y tan(angle), then columns up.

    Source: pytorch/vision torchvision/transforms/functional.py _get_inverse_affine_matrix.
    """
    along_x, along_y = (math.tan(math.radians(angle)) for angle in (x, y))
    return np.array([[1, -along_x, 0], [-along_y, 1 + along_x * along_y, 0], [0, 0, 1]])


def shift(x: float, y: float) -> np.ndarray:
    """Return the shift (translation) by pixels to the right and down."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def zoom(factor: float) -> np.ndarray:
    """Return the enlargement by a factor."""
    return np.diag([factor, factor, 1.0])


def perspective(size: tuple[int, int], corners: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the map that moves the corners of an image of `size` (height, width) to four places.

    Args:
      corners: (x, y) in pixels of the new top left, top right, bottom right and bottom left corner.

    Source: P. S. Heckbert, Fundamentals of Texture Mapping and Image Warping, 1989, section 2.2.3.
    """
    rows, values = [], []
    for (x, y), (new_x, new_y) in zip(np.array(CORNERS) * size[::-1], corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -new_x * x, -new_x * y], [0, 0, 0, x, y, 1, -new_y * x, -new_y * y]]
        values += [new_x, new_y]
    return np.append(np.linalg.solve(np.array(rows, np.float64), np.array(values)), 1).reshape(3, 3)


def about_centre(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the map with the centre of an image of `size` (height, width) in place of the origin."""
    height, width = size
    return shift(width / 2, height / 2) @ matrix @ shift(-width / 2, -height / 2)


def moved(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return where the places (..., 2) are after the map."""
    found = places @ matrix[:, :2].T + matrix[:, 2]
    return found[..., :2] / found[..., 2:]


def enlargement(matrix: np.ndarray, size: tuple[int, int]) -> float:
    """Return the factor by which the sides of something small at the centre of an image of `size` grow."""
    x, y = size[1] / 2, size[0] / 2
    weight = float(matrix[2] @ (x, y, 1))
    return math.sqrt(abs(float(np.linalg.det(matrix))) / abs(weight) ** 3)
