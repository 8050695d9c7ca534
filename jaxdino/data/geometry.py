"""The geometry of a view: what happens to an image and to its planes, boxes and points, drawn once, applied to all.

Sizes are (height, width) in pixels, boxes are (left, top, right, bottom).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

from jaxdino.core.resize import Resize
from jaxdino.data.bands import Picture, pixels
from jaxdino.data.crops import (
    Box,
    centres,
    draft_scale,
    eval_crop,
    random_crop_box,
    resized_crop,
    turned_crop,
)
from jaxdino.data.recipe import View

REDUCING_GAP = 2.0  # crops of large images differ by less than one level from those of the full filter
NODES = 3  # a side of the grid of random displacements
TRIES = 10  # attempts to draw a box that every field accepts
STEPS = 20  # of the iteration that inverts a displacement
TINY = 1e-9  # pixels: rounding does not decide what lies on the edge of the image
ALONG = 8  # points on each side of a box that follow a displacement
Wanted = Callable[[Box], bool]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What happened to one image: each of its parts is resampled once, by all of it together.

    Attributes:
      full: (width, height) of the image before.
      size: (height, width) of the result.
      how: interpolation; with `box` None, the resize and centre crop of evaluation.
      box: the part of the image that was cropped, in its pixels.
      degrees: rotation of the box about its centre; the content turns counter-clockwise.
      warp: displacement, float (H, W, 2): where each pixel of the result reads from, x and y in pixels of the result.
      hflip, vflip: whether the result is mirrored, after everything else.
      reducing_gap: see `crops.resized_crop`.
    """

    full: tuple[int, int]
    size: tuple[int, int]
    how: Resize
    box: Box | None = None
    degrees: float = 0.0
    warp: np.ndarray | None = None
    hflip: bool = False
    vflip: bool = False
    reducing_gap: float | None = None

    @property
    def turned(self) -> bool:
        """Whether more happens than a crop, a resize and flips."""
        return bool(self.degrees) or self.warp is not None

    @property
    def draft(self) -> int:
        """The factor by which a JPEG may be decoded smaller: 1, 2, 4 or 8."""
        return 1 if self.box is None else draft_scale(self.box, self.size)

    def image(self, image: Picture) -> np.ndarray:
        """Return uint8 (H, W, C) of an image, which may be decoded at a smaller size than `full`."""
        if self.box is None:
            return pixels(self._mirrored(eval_crop(image, self.size, self.how)))
        cut = (image, self.full, self.box, self.size, self.how.interpolation, self.reducing_gap)
        moved = turned_crop(*cut, degrees=self.degrees, warp=self.warp) if self.turned else resized_crop(*cut)
        return pixels(self._mirrored(moved))

    def plane(self, values: np.ndarray, fill: int) -> np.ndarray:
        """Return (H, W) of uint8 values of each pixel, such as a mask, by the nearest pixel.

        Args:
          values: (height, width) of `full`. fill: the value outside the image.
        """
        if self.turned:
            x, y = np.floor(self._source(centres(self.size)) + TINY).astype(int).transpose(2, 0, 1)
            inside = (x >= 0) & (x < self.full[0]) & (y >= 0) & (y < self.full[1])
            moved = np.full(self.size, fill, values.dtype)
            moved[inside] = values[y[inside], x[inside]]
        elif self.box is None:
            nearest = dataclasses.replace(self.how, interpolation="nearest", fill=(fill,))
            moved = np.asarray(eval_crop(Image.fromarray(values), self.size, nearest))
        else:
            moved = np.asarray(resized_crop(Image.fromarray(values), self.full, self.box, self.size, "nearest"))
        return self._flipped(moved)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Return where points (N, 2) of the image are in the result, float64; also outside it.

        Points are x, y in pixels; the centre of the first pixel is (0.5, 0.5), its corner (0, 0).
        """
        matrix, start = self._affine
        found = np.linalg.solve(matrix, (np.asarray(points, np.float64) - start).T).T
        if self.warp is not None:
            straight = found
            for _ in range(STEPS):
                found = straight - self._displacement(found)
        for axis, flip in enumerate((self.hflip, self.vflip)):
            if flip:
                found[:, axis] = self.size[1 - axis] - found[:, axis]
        return found

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return the boxes (N, 4), left, top, right, bottom, around what the given boxes show in the result, float64.

        They are cut off at its edges: a box outside the result has no area.
        """
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        share = np.linspace(0, 1, ALONG if self.warp is not None else 2)
        edge = [*((s, e) for s in share for e in (0, 1)), *((e, s) for s in share for e in (0, 1))]
        x, y = np.array(edge).T
        low, sides = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
        around = low + sides * np.stack([x, y], axis=-1)
        moved = self.points(around.reshape(-1, 2)).reshape(around.shape)
        found = np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1)
        return np.clip(found, 0, np.tile(self.size[::-1], 2))

    @functools.cached_property
    def _affine(self) -> tuple[np.ndarray, np.ndarray]:
        """(2, 2) and (2,): a place of the result, before flips and displacement -> its place in the image."""
        sides = np.array(self.size[::-1], np.float64)
        if self.box is None:
            shape = self.how.shape(*self.full, self.size)
            scale = np.array(self.full) / shape
            return np.diag(scale), scale * self.how.corner(*shape, self.size)
        low, high = np.array(self.box, np.float64).reshape(2, 2)
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        matrix = np.array([[cos, -sin], [sin, cos]]) * ((high - low) / sides)
        return matrix, (low + high) / 2 - matrix @ sides / 2

    def _source(self, places: np.ndarray) -> np.ndarray:
        """Return the place in the image of each pixel of the result, before flips: (H, W, 2) -> (H, W, 2)."""
        matrix, start = self._affine
        return (places if self.warp is None else places + self.warp) @ matrix.T + start

    def _displacement(self, places: np.ndarray) -> np.ndarray:
        """Return the displacement (N, 2) at places (N, 2) of the result."""
        at = places[:, ::-1].T - 0.5
        return np.stack([map_coordinates(self.warp[..., i], at, order=1, mode="nearest") for i in (0, 1)], axis=-1)

    def _mirrored(self, image: Picture) -> Picture:
        """Flip an image; Pillow does it several times as fast as a copy of reversed arrays."""
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.hflip else image
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if self.vflip else image

    def _flipped(self, values: np.ndarray) -> np.ndarray:
        values = values[:, ::-1] if self.hflip else values
        return values[::-1] if self.vflip else values


def evaluated(full: tuple[int, int], size: tuple[int, int], how: Resize) -> Geometry:
    """Return the geometry of evaluation: resize, and crop the centre."""
    return Geometry(full, size, how)


def drawn(
    views: Sequence[View],
    sizes: Sequence[tuple[int, int]],
    full: tuple[int, int],
    how: Resize,
    rng: np.random.Generator,
    wanted: Wanted | None = None,
) -> list[Geometry]:
    """Draw the geometry of each view of an image: all boxes, then all rotations, displacements and flips.

    Args:
      sizes: (height, width) of each view. full: (width, height) of the image.
      wanted: a box is drawn again, up to ten times, until this is true of it; otherwise the last one is used.
    """
    gap = REDUCING_GAP if len(views) > 1 else None
    boxes = [None if view.scale is None else _box(full, view, rng, wanted) for view in views]
    angles = [rng.uniform(-view.degrees, view.degrees) if view.degrees else 0.0 for view in views]
    warps = [displacement(size, view.warp, rng) if view.warp else None for view, size in zip(views, sizes, strict=True)]
    flips = [tuple(bool(p) and rng.random() < p for p in (view.hflip, view.vflip)) for view in views]
    parts = zip(sizes, boxes, angles, warps, flips, strict=True)
    return [Geometry(full, size, how, box, angle, warp, *flip, gap) for size, box, angle, warp, flip in parts]


def _box(full: tuple[int, int], view: View, rng: np.random.Generator, wanted: Wanted | None) -> Box:
    box = random_crop_box(*full, view.scale or (1.0, 1.0), view.ratio, rng)
    for _ in range(TRIES - 1):
        if wanted is None or wanted(box):
            break
        box = random_crop_box(*full, view.scale or (1.0, 1.0), view.ratio, rng)
    return box


def displacement(size: tuple[int, int], strength: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a smooth random displacement, float64 (H, W, 2), x and y in pixels.

    Normal vectors on a coarse grid of 3 x 3 nodes, interpolated by bicubic splines.

    Args:
      strength: standard deviation at the nodes, as a share of each side.

    Source: Ronneberger et al. 2015, U-Net (arXiv:1505.04597), section 3.1.
    """
    nodes = rng.normal(0, strength, (2, NODES, NODES)) * np.array(size[::-1]).reshape(2, 1, 1)
    at = (centres(size) / size[::-1] * (NODES - 1)).transpose(2, 0, 1)[::-1]
    return np.stack([map_coordinates(node, at, order=3, mode="nearest") for node in nodes], axis=-1)
