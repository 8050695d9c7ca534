"""Crop and resize on the host (Pillow, uint8 output), and the augmentation presets.

Sizes are (height, width) in pixels, boxes are (left, top, right, bottom).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.core.resize import FILTERS as FILTER_NAMES
from jaxdino.core.resize import Resize
from jaxdino.core.rules import nearest
from jaxdino.data.bands import Bands, Picture, pixels
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image

FILTERS = {name: Image.Resampling[name.upper()] for name in FILTER_NAMES}

# Fields of a preset.
# Host: `scale` (share of the area) and `ratio` (width / height) of the random crop; with scale None, the crop is
# that of evaluation.
# Device: probabilities of flips and of grey; strengths of the colour jitter (a factor from 1 - x to 1 + x, hue from
# -x to x turns) and its probability; probability, area shares and height / width of the erased box; alphas of mixup
# and CutMix (0 is off), the share of mixed batches and, with both on, the share of CutMix among them.
_NONE: dict[str, Any] = {
    "scale": None,
    "ratio": (3 / 4, 4 / 3),
    "hflip": 0.0,
    "vflip": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "jitter_prob": 1.0,
    "gray_prob": 0.0,
    "erase_prob": 0.0,
    "erase_area": (0.02, 1 / 3),
    "erase_ratio": (0.3, 10 / 3),
    "mixup": 0.0,
    "cutmix": 0.0,
    "mix_prob": 1.0,
    "switch_prob": 0.5,
}
_CROP = _NONE | {"scale": (0.5, 1.0), "ratio": (0.8, 1.25)}  # for images with a fixed orientation: digits, text, scans
_LIGHT = _NONE | {"scale": (0.35, 1.0), "hflip": 0.5}
_MEDIUM = _LIGHT | {"scale": (0.2, 1.0), "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02}
_STRONG = _LIGHT | {
    "scale": (0.08, 1.0),
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "jitter_prob": 0.8,
    "gray_prob": 0.1,
    "erase_prob": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "none": _NONE,
    "crop": _CROP,
    "light": _LIGHT,
    "medium": _MEDIUM,
    "strong": _STRONG,
}


def get_preset(preset: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a preset by name, or "none" with the given changes. Raise UserError for unknown names.

    A mapping may start from another preset with the key "base": {"base": "light", "vflip": 0.5}.
    """
    if not isinstance(preset, str):
        changes = dict(preset.items())
        start = get_preset(changes.pop("base", "none"))
        for key in changes:
            if key not in start:
                raise UserError(f"unknown augmentation {key!r}; nearest: {', '.join(nearest(key, start))}")
        return start | changes
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}; nearest: {', '.join(nearest(preset, PRESETS))}")
    return dict(PRESETS[preset])


def colour_only(preset: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the augmentation left to the device when image and mask are cropped and flipped on the host: colours."""
    off = ("hflip", "vflip", "erase_prob", "mixup", "cutmix")
    return get_preset(preset) | dict.fromkeys(off, 0.0)


def as_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) from one number or a pair."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


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


@dataclasses.dataclass(frozen=True)
class EvalTransform:
    """Map a record to uint8 (H, W, C), its centre crop. Raises BadImage."""

    size: tuple[int, int]
    how: Resize
    reading: Reading

    def __call__(self, record: str | np.ndarray) -> np.ndarray:
        return pixels(eval_crop(open_image(record, self.reading), self.size, self.how))


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Map a record and a random generator to uint8 (H, W, C), a random resized crop. Raises BadImage."""

    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: str
    reading: Reading
    draft: bool

    def __call__(self, record: str | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        seen = {}

        def draft(full: tuple[int, int]) -> int:
            seen["full"], seen["box"] = full, random_crop_box(*full, self.scale, self.ratio, rng)
            return draft_scale(seen["box"], self.size) if self.draft else 1

        image = open_image(record, self.reading, draft)
        return pixels(resized_crop(image, seen["full"], seen["box"], self.size, self.interpolation))
