"""Crop, resize and rotate images on the host with Pillow, in uint8.

Sizes are (height, width) in pixels, boxes are (left, top, right, bottom).
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.core.resize import FILTERS as FILTER_NAMES
from jaxdino.core.resize import Resize
from jaxdino.core.rules import nearest
from jaxdino.data.bands import Bands, Picture, of_levels, pixels, plain
from jaxdino.data.decoder import PILLOW, Decoder
from jaxdino.data.homography import CORNERS, enlargement, moved

BILINEAR = Image.Resampling.BILINEAR
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
    decoder: Decoder = PILLOW,
) -> Picture:
    """Crop `box` and resize it to `size`, with antialias.

    Args:
      image: with any number of channels; may be decoded at a smaller size than `full`.
      full: the (width, height) that `box` refers to.
      box: the region to keep.
      size: (height, width) of the result.
      interpolation: a key of `FILTERS`.
      reducing_gap: a box larger than this multiple of `size` is first reduced to it by averaging, which is faster.
      decoder: resizes.
    """
    resample = get_filter(interpolation)
    if image.size != full:
        x, y = image.width / full[0], image.height / full[1]
        scaled = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
        return decoder.resized(image, size[::-1], resample, scaled, reducing_gap)
    return decoder.resized(image.crop(box), size[::-1], resample, None, reducing_gap)


def draft_scale(box: tuple[int, int, int, int], size: tuple[int, int], larger: float = 1.0) -> int:
    """Return the factor (1, 2, 4, 8) by which a JPEG can be decoded smaller with `box` at least `size` pixels.

    Args:
      larger: a factor for `size`: how much the content of the box is enlarged afterwards.
    """
    room = min((box[2] - box[0]) // (size[1] * larger), (box[3] - box[1]) // (size[0] * larger))
    return next(scale for scale in (8, 4, 2, 1) if room >= scale or scale == 1)


def eval_crop(image: Picture, size: tuple[int, int], how: Resize) -> Picture:
    """Resize with antialias and crop the centre of `size` (height, width), as set by `how`."""
    image = plain(image)
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
    box: Sequence[float],
    size: tuple[int, int],
    interpolation: str,
    reducing_gap: float | None,
    *,
    degrees: float = 0.0,
    warp: np.ndarray | None = None,
    transform: np.ndarray | None = None,
    fill: tuple[int, ...] | None = None,
    decoder: Decoder = PILLOW,
) -> Picture:
    """Crop and resize as `resized_crop`, with the box rotated about its centre (content counter-clockwise), and moved.

    The bounding box of what is read is resized to the output scale with antialias, then read with bilinear
    interpolation: the image is resampled once more, but only once.

    Args:
      warp: displacement of each pixel of the result, float (H, W, 2), x and y in its pixels: where it reads from.
      transform: (3, 3), where a place of the crop is in the result, in pixels (see `homography`).
      fill: pixel value of each channel beyond the image; None repeats its edge pixels.
    """
    sides = np.array(size[::-1])
    box_low, box_high = np.array(box).reshape(2, 2) * image.size / np.array(full)
    middle, box_sides = (box_low + box_high) / 2, box_high - box_low
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, -sin], [sin, cos]])
    farthest = 0 if warp is None else 2 * np.abs(warp).max(axis=(0, 1)) / sides  # as a share of half the box
    if transform is None:
        back, reach = None, np.abs(turn) @ (box_sides * (1 + farthest)) / 2
        first, last, scale = middle - reach, middle + reach, sides / box_sides
    else:
        back = np.linalg.inv(transform)
        corners = moved(back, (np.array(CORNERS) * 2 - 1) * (1 + farthest) * sides / 2 + sides / 2)
        read = (corners / sides - 0.5) * box_sides @ turn.T + middle
        first, last, scale = read.min(axis=0), read.max(axis=0), sides / box_sides / enlargement(back, size)
    low, high = np.floor(first).astype(int) - MARGIN, np.ceil(last).astype(int) + MARGIN
    how = decoder, get_filter(interpolation), reducing_gap
    if back is None and fill is None:
        region, scale, corner = _spanned(image, low, high, scale, *how)
    else:
        region, scale, corner = _padded(image, low, high, scale, *how, fill)
    step = scale[:, None] * turn * (box_sides / sides)
    affine = np.column_stack([step, scale * (middle - corner) - step @ sides / 2])
    return _read(region, affine, back, size, warp)


def _read(
    region: Picture, affine: np.ndarray, back: np.ndarray | None, size: tuple[int, int], warp: np.ndarray | None
) -> Picture:
    """Read each pixel of the result, displaced by `warp`, at `affine` (2, 3) after `back` (3, 3); bilinear."""
    if back is None and warp is None:
        return region.transform(size[::-1], Image.Transform.AFFINE, affine.ravel().tolist(), BILINEAR)
    if back is None:
        return _sampled(region, (centres(size) + warp) @ affine[:, :2].T + affine[:, 2])
    matrix = np.vstack([affine, (0, 0, 1)]) @ back
    if warp is not None:
        return _sampled(region, moved(matrix, centres(size) + warp))
    matrix /= matrix[2, 2]
    if not matrix[2, :2].any():
        return region.transform(size[::-1], Image.Transform.AFFINE, matrix[:2].ravel().tolist(), BILINEAR)
    return region.transform(size[::-1], Image.Transform.PERSPECTIVE, matrix.ravel()[:8].tolist(), BILINEAR)


def _sampled(region: Picture, places: np.ndarray) -> Picture:
    """Read a region at places (H, W, 2), x and y in its pixels, with bilinear interpolation."""
    from scipy.ndimage import map_coordinates  # a tenth of the time of a start, and few runs distort

    x, y = (places - 0.5).transpose(2, 0, 1)
    bands = [map_coordinates(band, (y, x), order=1, mode="nearest") for band in pixels(region).transpose(2, 0, 1)]
    return of_levels(np.stack(bands, axis=-1))


def centres(size: tuple[int, int]) -> np.ndarray:
    """Return float64 (H, W, 2): x and y of each pixel's centre; that of the first pixel is at (0.5, 0.5)."""
    return np.stack(np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5), axis=-1)


Region = tuple[Picture, np.ndarray, np.ndarray]
"""A resized part of an image; its scale along x and y; the place of its top left corner in the image, in pixels."""


def _spanned(
    image: Picture,
    low: np.ndarray,
    high: np.ndarray,
    scale: np.ndarray,
    decoder: Decoder,
    resample: Image.Resampling,
    gap: float | None,
) -> Region:
    """Crop from `low` to `high`, also beyond the image, where its edge pixels are repeated; then resize."""
    inner_low, inner_high = _inside(image, low, high)
    part = image.crop((*inner_low.tolist(), *inner_high.tolist()))
    if (inner_low > low).any() or (inner_high < high).any():
        part = _surrounded(part, inner_low - low, high - inner_high, None)
    shape = np.maximum(1, np.rint((high - low) * scale)).astype(int)
    exact = shape / (high - low)
    return decoder.resized(part, tuple(shape.tolist()), resample, None, gap), exact, low


def _padded(
    image: Picture,
    low: np.ndarray,
    high: np.ndarray,
    scale: np.ndarray,
    decoder: Decoder,
    resample: Image.Resampling,
    gap: float | None,
    fill: tuple[int, ...] | None,
) -> Region:
    """Crop from `low` to `high` and resize; then add what is beyond the image: large parts of it cost little."""
    inner_low, inner_high = _inside(image, low, high)
    shape = np.maximum(1, np.rint((inner_high - inner_low) * scale)).astype(int)
    exact = shape / (inner_high - inner_low)
    part = image.crop((*inner_low.tolist(), *inner_high.tolist()))
    part = decoder.resized(part, tuple(shape.tolist()), resample, None, gap)
    before = np.maximum(0, np.ceil((inner_low - low) * exact)).astype(int)
    after = np.maximum(0, np.ceil((high - inner_high) * exact)).astype(int)
    if before.any() or after.any():
        part = _surrounded(part, before, after, fill)
    return part, exact, inner_low - before / exact


def _inside(image: Picture, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of a box that lies in the image, one pixel of its edge at least."""
    inner_low = np.clip(low, 0, np.array(image.size) - 1)
    return inner_low, np.clip(high, inner_low + 1, image.size)


def _surrounded(image: Picture, before: np.ndarray, after: np.ndarray, fill: tuple[int, ...] | None) -> Picture:
    """Add (columns, rows) of pixels before and after an image: its edge pixels, or the given value of each channel."""
    levels = pixels(image)
    (left, top), (right, bottom) = before, after
    if fill is None:
        return of_levels(np.pad(levels, ((top, bottom), (left, right), (0, 0)), mode="edge"))
    height, width, channels = levels.shape
    canvas = np.empty((top + height + bottom, left + width + right, channels), np.uint8)
    canvas[:] = fill or 0
    canvas[top : top + height, left : left + width] = levels
    return of_levels(canvas)
