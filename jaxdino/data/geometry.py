"""The geometry of a view: what happens to an image and to its planes, boxes and points, the same to all.

Sizes are (height, width) in pixels, boxes are (left, top, right, bottom).
"""

import dataclasses
import functools
import math

import numpy as np
from PIL import Image

from jaxdino.core.resize import Resize
from jaxdino.data.bands import Picture, pixels
from jaxdino.data.crops import (
    Box,
    centres,
    draft_scale,
    eval_crop,
    resized_crop,
    turned_crop,
)
from jaxdino.data.decoder import PILLOW, Decoder
from jaxdino.data.homography import enlargement, moved

STEPS = 20  # of the iteration that inverts a displacement
TINY = 1e-9  # pixels: rounding does not decide what lies on the edge of the image
QUARTERS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
PADDED = ("border", "none")  # crop modes in which evaluation may show what is beyond the image
SUPPORT = 3  # pixels of the result on each side that the widest filter, Lanczos, reads
ALONG = 8  # points on each side of a box that follow a displacement


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
      hflip, vflip: whether the result is mirrored, after all of these.
      reducing_gap: see `crops.resized_crop`.
      transform: (3, 3), where a place of the crop is moved to, in pixels of the result (see `homography`); after the
        rotation, before the displacement.
      turns: quarter turns of the result, counter-clockwise, after everything else; H and W of `warp` and `transform`
        are those before.
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
    transform: np.ndarray | None = None
    turns: int = 0

    @property
    def turned(self) -> bool:
        """Whether more happens than a crop, a resize, flips and quarter turns."""
        return bool(self.degrees) or self.warp is not None or self.transform is not None

    @property
    def canvas(self) -> tuple[int, int]:
        """(height, width) of the result before the quarter turns."""
        return turned_size(self.size, self.turns)

    @property
    def draft(self) -> int:
        """The factor by which a JPEG may be decoded smaller: 1, 2, 4 or 8."""
        if self.box is None:
            return 1
        larger = 1.0 if self.transform is None else max(1.0, enlargement(self.transform, self.canvas))
        return draft_scale(self.box, self.canvas, larger)

    def reads(self, scale: int) -> Box | None:
        """Return what `image` reads of an image decoded at 1 / `scale` (at most `draft`); None: perhaps all of it."""
        if self.turned or self.box is None:
            return None
        if scale == 1:
            return self.box
        sides = zip(np.reshape(self.box, (2, 2)).T.tolist(), self.full, self.canvas[::-1], strict=True)
        (left, right), (top, bottom) = (_widened(*side, scale) for side in sides)
        return left, top, right, bottom

    def image(self, image: Picture, decoder: Decoder = PILLOW) -> np.ndarray:
        """Return uint8 (H, W, C) of an image, which may be decoded at a smaller size than `full`.

        Args:
          decoder: resizes crops; without a crop, evaluation's resize is Pillow's.
        """
        how = self.canvas, self.how.interpolation, self.reducing_gap
        if self.turned:
            fill = self.how.fill if self.box is None and self.how.crop_mode in PADDED else None
            more = dict(degrees=self.degrees, warp=self.warp, transform=self.transform, fill=fill, decoder=decoder)
            found = turned_crop(image, self.full, self._shown, *how, **more)
        elif self.box is None:
            found = eval_crop(image, self.canvas, self.how)
        else:
            found = resized_crop(image, self.full, self.box, *how, decoder)
        return pixels(self._mirrored(found))

    def plane(self, values: np.ndarray, fill: int) -> np.ndarray:
        """Return (H, W) of uint8 values of each pixel, such as a mask, by the nearest pixel.

        Args:
          values: (height, width) of `full`. fill: the value outside the image.
        """
        if self.turned:
            x, y = np.floor(self._source(centres(self.canvas)) + TINY).astype(int).transpose(2, 0, 1)
            inside = (x >= 0) & (x < self.full[0]) & (y >= 0) & (y < self.full[1])
            found = np.full(self.canvas, fill, values.dtype)
            found[inside] = values[y[inside], x[inside]]
        elif self.box is None:
            nearest = dataclasses.replace(self.how, interpolation="nearest", fill=(fill,))
            found = np.asarray(eval_crop(Image.fromarray(values), self.canvas, nearest))
        else:
            found = np.asarray(resized_crop(Image.fromarray(values), self.full, self.box, self.canvas, "nearest"))
        return self._flipped(found)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Return where points (N, 2) of the image are in the result, float64; also outside it.

        Points are x, y in pixels; the centre of the first pixel is (0.5, 0.5), its corner (0, 0).
        """
        matrix, start = self._affine
        found = np.linalg.solve(matrix, (np.asarray(points, np.float64) - start).T).T
        if self.transform is not None:
            found = moved(self.transform, found)
        if self.warp is not None:
            straight = found
            for _ in range(STEPS):
                found = straight - self._displacement(found)
        sides = self.canvas[::-1]
        for axis, flip in enumerate((self.hflip, self.vflip)):
            if flip:
                found[:, axis] = sides[axis] - found[:, axis]
        for turn in range(self.turns):
            found = np.stack([found[:, 1], sides[turn % 2] - found[:, 0]], axis=-1)
        return found

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return the boxes (N, 4), left, top, right, bottom, around what the given boxes show in the result, float64.

        They are cut off at its edges: a box outside the result has no area.
        """
        return np.clip(self.outlines(boxes), 0, np.tile(self.size[::-1], 2))

    def outlines(self, boxes: np.ndarray) -> np.ndarray:
        """Return `boxes` without cutting them off."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        share = np.linspace(0, 1, ALONG if self.warp is not None else 2)
        edge = [*((s, e) for s in share for e in (0, 1)), *((e, s) for s in share for e in (0, 1))]
        x, y = np.array(edge).T
        low, sides = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
        around = low + sides * np.stack([x, y], axis=-1)
        places = self.points(around.reshape(-1, 2)).reshape(around.shape)
        return np.concatenate([places.min(axis=1), places.max(axis=1)], axis=1)

    @property
    def origin(self) -> np.ndarray:
        """(4,) a, b, c, d of a geometry without turns and flips: (x, y) of the result is (a x + c, b y + d) before."""
        matrix, start = self._affine
        return np.concatenate([np.diag(matrix), start])

    @functools.cached_property
    def _shown(self) -> tuple[float, float, float, float]:
        """The box; without one, what evaluation shows of the image, in its pixels: it may reach beyond its edges."""
        if self.box is not None:
            return self.box
        scale, low = self._evaluated
        return (*low.tolist(), *(low + scale * self.canvas[::-1]).tolist())

    @property
    def _evaluated(self) -> tuple[np.ndarray, np.ndarray]:
        """(2,) and (2,): pixels of the image in a pixel of the result of evaluation, and where its corner is in it."""
        shape = self.how.shape(*self.full, self.canvas)
        scale = np.array(self.full) / shape
        return scale, scale * self.how.corner(*shape, self.canvas)

    @functools.cached_property
    def _affine(self) -> tuple[np.ndarray, np.ndarray]:
        """(2, 2) and (2,): a place of the crop -> its place in the image."""
        if self.box is None and not self.degrees:
            scale, low = self._evaluated
            return np.diag(scale), low
        sides = np.array(self.canvas[::-1], np.float64)
        low, high = np.array(self._shown, np.float64).reshape(2, 2)
        cos, sin = math.cos(math.radians(self.degrees)), math.sin(math.radians(self.degrees))
        matrix = np.array([[cos, -sin], [sin, cos]]) * ((high - low) / sides)
        return matrix, (low + high) / 2 - matrix @ sides / 2

    def _source(self, places: np.ndarray) -> np.ndarray:
        """Return the place in the image of each pixel of the result, before flips: (H, W, 2) -> (H, W, 2)."""
        matrix, start = self._affine
        places = places if self.warp is None else places + self.warp
        if self.transform is not None:
            places = moved(np.linalg.inv(self.transform), places)
        return places @ matrix.T + start

    def _displacement(self, places: np.ndarray) -> np.ndarray:
        """Return the displacement (N, 2) at places (N, 2) of the result."""
        from scipy.ndimage import map_coordinates  # a tenth of the time of a start, and few runs distort

        at = places[:, ::-1].T - 0.5
        return np.stack([map_coordinates(self.warp[..., i], at, order=1, mode="nearest") for i in (0, 1)], axis=-1)

    def _mirrored(self, image: Picture) -> Picture:
        """Flip and turn an image; Pillow does it several times as fast as a copy of reversed arrays."""
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.hflip else image
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if self.vflip else image
        return image.transpose(QUARTERS[self.turns]) if self.turns else image

    def _flipped(self, values: np.ndarray) -> np.ndarray:
        values = values[:, ::-1] if self.hflip else values
        values = values[::-1] if self.vflip else values
        return np.rot90(values, self.turns) if self.turns else values


def _widened(side: tuple[int, int], full: int, size: int, scale: int) -> tuple[int, int]:
    """Return the part of an image's side that is read when a part of it is resized to `size`, by any filter."""
    beyond = math.ceil(SUPPORT * (side[1] - side[0]) / size) + 2 * scale
    return max(0, side[0] - beyond), min(full, side[1] + beyond)


def turned_size(size: tuple[int, int], turns: int) -> tuple[int, int]:
    """Return the (height, width) of an image of `size` after quarter turns."""
    return size[::-1] if turns % 2 else size


def evaluated(full: tuple[int, int], size: tuple[int, int], how: Resize) -> Geometry:
    """Return the geometry of evaluation: resize, and crop the centre."""
    return Geometry(full, size, how)
