"""Draw the geometry of the views of an image: crop, rotation, shear, shift, zoom, perspective, distortion, flips.

Sizes are (height, width) in pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np

from jaxdino.core.resize import Resize
from jaxdino.data import distortion, homography
from jaxdino.data.crops import Box, random_crop_box
from jaxdino.data.geometry import Geometry, turned_size
from jaxdino.data.recipe import View

REDUCING_GAP = 2.0  # crops of large images differ by less than one level from those of the full filter
TRIES = 10  # attempts to draw a box that every field accepts
Wanted = Callable[[Box], bool]


def drawn(
    views: Sequence[View],
    sizes: Sequence[tuple[int, int]],
    full: tuple[int, int],
    how: Resize,
    rng: np.random.Generator,
    wanted: Wanted | None = None,
) -> list[Geometry]:
    """Draw the geometry of each view of an image: first all boxes, then step by step the rest of every view.

    Nothing is drawn for a field that is off: the other draws of a seed stay the same.

    Args:
      sizes: (height, width) of each view. full: (width, height) of the image.
      wanted: a box is drawn again, up to ten times, until this is true of it; otherwise the last one is used.
    """
    gap = REDUCING_GAP if len(views) > 1 else None
    boxes = [
        None if view.scale is None else _box(full, view, size, rng, wanted)
        for view, size in zip(views, sizes, strict=True)
    ]
    turns = [int(rng.integers(4)) if _happens(view.quarter, rng) else 0 for view in views]
    sizes_before = [turned_size(size, turn) for size, turn in zip(sizes, turns, strict=True)]
    affine = [_has_affine(view) and _happens(view.affine_prob, rng) for view in views]
    angles = [
        rng.uniform(-view.degrees, view.degrees) if on and view.degrees else 0.0
        for view, on in zip(views, affine, strict=True)
    ]
    warps = [_displacement(view, size, rng) for view, size in zip(views, sizes_before, strict=True)]
    flips = [tuple(bool(p) and rng.random() < p for p in (view.hflip, view.vflip)) for view in views]
    transforms = [_transform(*each, rng) for each in zip(views, sizes_before, affine, strict=True)]
    parts = zip(sizes, boxes, angles, warps, flips, transforms, turns, strict=True)
    return [
        Geometry(full, size, how, box, angle, warp, *flip, gap, transform, turn)
        for size, box, angle, warp, flip, transform, turn in parts
    ]


def _box(
    full: tuple[int, int], view: View, size: tuple[int, int], rng: np.random.Generator, wanted: Wanted | None
) -> Box:
    """Draw a box; its ratio is relative to that of the result, so that a result that is not square is not squeezed."""
    shape = size[1] / size[0]
    ratio = (view.ratio[0] * shape, view.ratio[1] * shape)
    box = random_crop_box(*full, view.scale or (1.0, 1.0), ratio, rng)
    for _ in range(TRIES - 1):
        if wanted is None or wanted(box):
            break
        box = random_crop_box(*full, view.scale or (1.0, 1.0), ratio, rng)
    return box


def _happens(probability: float, rng: np.random.Generator) -> bool:
    """Draw whether something happens; certain things need no draw."""
    return probability >= 1 or (probability > 0 and rng.random() < probability)


def _has_affine(view: View) -> bool:
    return bool(view.degrees or view.shear or view.shift) or view.zoom != (1.0, 1.0)


def _displacement(view: View, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray | None:
    """Draw the elastic displacement and that of the grid, float64 (H, W, 2); None without both."""
    if not (view.warp or view.grid) or not _happens(view.distort_prob, rng):
        return None
    found = distortion.elastic(size, view.warp, rng) if view.warp else 0.0
    return found + distortion.grid(size, view.grid, rng) if view.grid else found


def _transform(view: View, size: tuple[int, int], affine: bool, rng: np.random.Generator) -> np.ndarray | None:
    """Draw zoom, shear and shift, then perspective, as one (3, 3) (see `homography`); None without any."""
    found = None
    if affine and (view.shear or view.shift or view.zoom != (1.0, 1.0)):
        matrix = homography.zoom(rng.uniform(*view.zoom) if view.zoom != (1.0, 1.0) else 1.0)
        if view.shear:
            matrix = homography.shear(*rng.uniform(-view.shear, view.shear, 2)) @ matrix
        if view.shift:
            matrix = homography.shift(*rng.uniform(-view.shift, view.shift, 2) * size[::-1]) @ matrix
        found = homography.about_centre(matrix, size)
    if view.perspective and _happens(view.perspective_prob, rng):
        tilted = homography.perspective(size, _corners(view.perspective, size, rng))
        found = tilted if found is None else tilted @ found
    return found


def _corners(strength: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw the new corners (4, 2) of an image: each moves inward by up to `strength` times half a side.

    Source: pytorch/vision torchvision/transforms/transforms.py RandomPerspective.get_params.
    """
    corners = np.array(homography.CORNERS, np.float64)
    return (corners + (1 - 2 * corners) * rng.uniform(0, strength / 2, (4, 2))) * size[::-1]
