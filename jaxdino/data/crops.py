"""Crop, resize and rotate images on the host with Pillow, in uint8.

Sizes are (height, width) in pixels, boxes are (left, top, right, bottom).
"""

import math

import numpy as np
from PIL import Image
from scipy.ndimage import map_coordinates

from jaxdino.core.errors import UserError
from jaxdino.core.resize import FILTERS as FILTER_NAMES
from jaxdino.core.resize import Resize
from jaxdino.core.rules import nearest
from jaxdino.data.bands import Bands, Picture, of_levels, pixels

FILTERS = {name: Image.Resampling[name.upper()] for name in FILTER_NAMES}
MARGIN = 2  # pixels around a rotated box that the interpolation reads
Box = tuple[int, int, int, int]


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) from one number or a pair."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def short_side(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Return the (height, width) of an image whose short side is resized to `short` pixels; unchanged for 0."""
    scale = short / min(size)
    return (max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))) if short else size


def get_filter(interpolation: str) -> Image.Resampling:
    """Return Pillow's filter of that name. Raise UserError if it is unknown."""
    if interpolation not in FILTERS:
        near = ", ".join(nearest(interpolation, FILTERS))
        raise UserError(f"unknown interpolation {interpolation!r}; nearest: {near}")
    return FILTERS[interpolation]


def random_crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a box of random area and aspect ratio; after ten misses, use the largest central box within `ratio`.

    Source: pytorch/vision torchvision/transforms/transforms.py RandomResizedCrop.get_params.
    """
    log_ratio = np.log(ratio)
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * max(ratio)))
    h = min(height, round(width / min(ratio)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resized_crop(
    image: Picture,
    full: tuple[int, int],
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    interpolation: str,
    reducing_gap: float | None = None,
) -> Picture:
    """Crop `box` and resize it to `size`, with antialias.

    Args:
      image: with any number of channels; may be decoded at a smaller size than `full`.
      full: the (width, height) that `box` refers to.
      box: the region to keep.
      size: (height, width) of the result.
      interpolation: a key of `FILTERS`.
      reducing_gap: a box larger than this multiple of `size` is first reduced to it by averaging, which is faster.
    """
    resample = get_filter(interpolation)
    if image.size != full:
        x, y = image.width / full[0], image.height / full[1]
        scaled = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
        return image.resize(size[::-1], resample, box=scaled, reducing_gap=reducing_gap)
    return image.crop(box).resize(size[::-1], resample, reducing_gap=reducing_gap)


def draft_scale(box: tuple[int, int, int, int], size: tuple[int, int]) -> int:
    """Return the factor (1, 2, 4, 8) by which a JPEG can be decoded smaller with `box` at least `size` pixels."""
    room = min((box[2] - box[0]) // size[1], (box[3] - box[1]) // size[0])
    return next(scale for scale in (8, 4, 2, 1) if room >= scale or scale == 1)


def eval_crop(image: Picture, size: tuple[int, int], how: Resize) -> Picture:
    """Resize with antialias and crop the centre of `size` (height, width), as set by `how`."""
    shape = how.shape(*image.size, size)
    if image.size != shape:
        image = image.resize(shape, get_filter(how.interpolation))
    left, top = how.corner(*shape, size)
    if isinstance(image, Bands):
        fills = how.fill if len(how.fill) > 1 else how.fill * len(image.bands) or (0,) * len(image.bands)
        each = zip(image.bands, fills, strict=True)
        return Bands(_cut(band, size, left, top, fill) for band, fill in each)
    return _cut(image, size, left, top, how.fill[0] if len(how.fill) == 1 else how.fill or 0)


def _cut(image: Image.Image, size: tuple[int, int], left: int, top: int, fill: int | tuple[int, ...]) -> Image.Image:
    """Crop `size` (height, width) at a position that may reach beyond the image, which is padded with `fill`."""
    shape = image.size
    if min(left, top) >= 0:
        return image.crop((left, top, left + size[1], top + size[0]))
    canvas = Image.new(image.mode, size[::-1], fill)
    inner = image.crop((max(left, 0), max(top, 0), max(left, 0) + size[1], max(top, 0) + size[0]))
    canvas.paste(inner.crop((0, 0, min(shape[0], size[1]), min(shape[1], size[0]))), (max(-left, 0), max(-top, 0)))
    return canvas


def turned_crop(
    image: Picture,
    full: tuple[int, int],
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    interpolation: str,
    reducing_gap: float | None,
    *,
    degrees: float,
    warp: np.ndarray | None = None,
) -> Picture:
    """Crop and resize as `resized_crop`, with the box rotated about its centre (content counter-clockwise).

    The bounding box of the rotated box is resized to the output scale with antialias, then rotated with bilinear
    interpolation. Edge pixels are repeated beyond the image.

    Args:
      warp: displacement of each pixel of the result, float (H, W, 2), x and y in its pixels: where it reads from.
    """
    sides = np.array(size[::-1])
    box_low, box_high = np.array(box).reshape(2, 2) * image.size / np.array(full)
    middle, box_sides = (box_low + box_high) / 2, box_high - box_low
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])
    farthest = 0 if warp is None else 2 * np.abs(warp).max(axis=(0, 1)) / sides  # as a share of half the box
    reach = np.abs(turn) @ (box_sides * (1 + farthest)) / 2
    low = np.floor(middle - reach).astype(int) - MARGIN
    high = np.ceil(middle + reach).astype(int) + MARGIN
    shape = np.maximum(1, np.rint((high - low) * sides / box_sides)).astype(int)
    spanned = _spanned(image, (*low.tolist(), *high.tolist()))
    region = spanned.resize(tuple(shape.tolist()), get_filter(interpolation), reducing_gap=reducing_gap)
    scale = shape / (high - low)
    step = scale[:, None] * turn * (box_sides / sides)
    start = scale * (middle - low) - step @ sides / 2
    if warp is not None:
        return _sampled(region, start, step, size, warp)
    matrix = np.column_stack([step, start]).ravel().tolist()
    return region.transform(size[::-1], Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _sampled(region: Picture, start: np.ndarray, step: np.ndarray, size: tuple[int, int], warp: np.ndarray) -> Picture:
    """Read each pixel of the result, displaced by `warp`, from a region, with bilinear interpolation."""
    places = centres(size) + warp
    x, y = (places @ step.T + start - 0.5).transpose(2, 0, 1)
    bands = [map_coordinates(band, (y, x), order=1, mode="nearest") for band in pixels(region).transpose(2, 0, 1)]
    return of_levels(np.stack(bands, axis=-1))


def centres(size: tuple[int, int]) -> np.ndarray:
    """Return float64 (H, W, 2): x and y of each pixel's centre; that of the first pixel is at (0.5, 0.5)."""
    return np.stack(np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5), axis=-1)


def _spanned(image: Picture, box: tuple[int, int, int, int]) -> Picture:
    """Crop a box that may reach beyond the image; edge pixels are repeated there."""
    inside = [min(max(box[0], 0), image.width - 1), min(max(box[1], 0), image.height - 1)]
    inside += [max(min(box[2], image.width), 1), max(min(box[3], image.height), 1)]
    if tuple(inside) == box:
        return image.crop(box)
    rows, columns = (inside[1] - box[1], box[3] - inside[3]), (inside[0] - box[0], box[2] - inside[2])
    return of_levels(np.pad(pixels(image.crop(inside)), (rows, columns, (0, 0)), mode="edge"))
