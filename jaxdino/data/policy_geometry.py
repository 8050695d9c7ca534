"""What automatic augmentation does to the geometry of a view: shear, translation, rotation (see `policies`)."""

import dataclasses
import math

import numpy as np

from jaxdino.data import homography
from jaxdino.data.geometry import Geometry
from jaxdino.data.policies import OPERATIONS, SPACES, draw, parsed


def applied(auto: str, geometry: Geometry, rng: np.random.Generator, length: int) -> tuple[Geometry, np.ndarray]:
    """Draw a view's policy; return its geometry with the operations that move pixels, and the others for the device.

    Args:
      length: rows of the array, at least the policy's operations.

    Returns:
      The geometry, and float32 (length, 2): numbers in `OPERATIONS` and magnitudes; "Identity" for what has moved.
    """
    others = np.zeros((length, 2), np.float32)
    if not (policy := parsed(auto)) or not policy.on_host:
        return geometry, others
    transform = geometry.transform
    for row, (name, magnitude) in enumerate(draw(policy, rng)):
        if name in OPERATIONS:
            others[row] = OPERATIONS.index(name), magnitude
        elif magnitude:
            own = moving(name, magnitude, geometry.canvas, SPACES[policy.name][name].of_side)
            transform = own if transform is None else own @ transform
    return dataclasses.replace(geometry, transform=transform), others


def moving(name: str, magnitude: float, size: tuple[int, int], of_side: bool = False) -> np.ndarray:
    """Return the map (3, 3) of an operation on an image of `size` (height, width); see `homography`.

    Shears keep the top left corner, rotations the centre; translations are by whole pixels.
    """
    if name in ("ShearX", "ShearY"):
        angle = math.degrees(math.atan(magnitude))
        return homography.shear(angle) if name == "ShearX" else homography.shear(0.0, angle)
    if name == "Rotate":
        return homography.about_centre(homography.rotation(magnitude), size)
    side = size[1] if name == "TranslateX" else size[0]
    pixels = int(magnitude * side if of_side else magnitude)
    return homography.shift(pixels, 0) if name == "TranslateX" else homography.shift(0, pixels)
