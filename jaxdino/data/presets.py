"""Presets of augmentation, by name, with changes to them: the view of an image in a stage (see `recipe.View`)."""

import ast
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from jaxdino.core import options
from jaxdino.core.errors import UserError
from jaxdino.core.rules import nearest
from jaxdino.data.recipe import OF_CROPS, View

OFF = dict(hflip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, gray_prob=0.0, blur_prob=0.0)

_NONE = View(scale=None, jitter_prob=1.0, **OFF)
_CROP = dataclasses.replace(_NONE, scale=(0.5, 1.0), ratio=(0.8, 1.25))  # images of a fixed orientation: digits, scans
_LIGHT = dataclasses.replace(_NONE, scale=(0.35, 1.0), hflip=0.5)
_STANDARD = dataclasses.replace(_LIGHT, scale=(0.2, 1.0), brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02)
_STRONG = dataclasses.replace(
    _LIGHT,
    scale=(0.08, 1.0),
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    jitter_prob=0.8,
    gray_prob=0.1,
    erase_prob=0.25,
    mixup=0.8,
    cutmix=1.0,
)
# Radiographs, CT, MR, ultrasound: left and right differ, up is up; the pose of the patient and the exposure vary.
_MEDICAL = dataclasses.replace(
    _NONE,
    scale=(0.7, 1.0),
    ratio=(0.9, 1.11),
    degrees=10.0,
    shift=0.05,
    zoom=(0.9, 1.1),
    brightness=0.2,
    contrast=0.2,
    gamma=0.2,
    noise=0.01,
)
# Seen from above: no side is up; the size of a pixel on the ground is known; sun and haze vary.
_SATELLITE = dataclasses.replace(
    _NONE,
    scale=(0.4, 1.0),
    ratio=(0.9, 1.11),
    hflip=0.5,
    vflip=0.5,
    quarter=1.0,
    brightness=0.2,
    contrast=0.2,
    saturation=0.1,
    blur_prob=0.1,
    blur_sigma=(0.1, 1.0),
)
# Parts before a fixed camera: small defects stay in the picture; the part lies a little differently, the light varies.
_INDUSTRIAL = dataclasses.replace(
    _NONE,
    scale=(0.85, 1.0),
    ratio=(0.9, 1.11),
    degrees=5.0,
    shift=0.05,
    zoom=(0.95, 1.05),
    perspective=0.1,
    perspective_prob=0.5,
    brightness=0.3,
    contrast=0.3,
    blur_prob=0.1,
    blur_sigma=(0.1, 1.0),
    motion_blur_prob=0.1,
    noise=0.01,
    jpeg_prob=0.2,
    jpeg_quality=(50, 95),
)
# Cells and tissue: no side is up, soft shapes, a known magnification; the stain and the focus vary.
_MICROSCOPY = dataclasses.replace(
    _NONE,
    scale=(0.4, 1.0),
    ratio=(0.9, 1.11),
    hflip=0.5,
    vflip=0.5,
    quarter=1.0,
    warp=0.03,
    distort_prob=0.5,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    hue=0.05,
    jitter_prob=0.8,
    blur_prob=0.2,
    blur_sigma=(0.1, 1.0),
    noise=0.01,
)
PRESETS: dict[str, View] = {
    "none": _NONE,
    "crop": _CROP,
    "light": _LIGHT,
    "standard": _STANDARD,
    "medium": _STANDARD,  # its earlier name
    "strong": _STRONG,
    "medical": _MEDICAL,
    "satellite": _SATELLITE,
    "industrial": _INDUSTRIAL,
    "microscopy": _MICROSCOPY,
}
"""data.augment -> its view."""


TEXTS = ("auto",)  # fields whose values need no quotes


def get_preset(preset: str | Mapping[str, Any] | View) -> View:
    """Return a preset by name, with changes to it. Raise UserError for unknown names and wrong values.

    Changes follow the name, "light,vflip=0.5,scale=(0.2,1.0)", or are a mapping, {"base": "light", "vflip": 0.5},
    where the base is "none" if not given.
    """
    if isinstance(preset, View):
        return preset
    changes = _parsed(preset) if isinstance(preset, str) else dict(preset.items())
    if set(changes) == {"base"}:
        if changes["base"] not in PRESETS:
            near = ", ".join(nearest(changes["base"], PRESETS))
            raise UserError(f"unknown preset {changes['base']!r}; nearest: {near}")
        return PRESETS[changes["base"]]
    start = get_preset(str(changes.pop("base", "none")))
    if unread := [name for name in OF_CROPS if name in changes]:
        raise UserError(f"augment has {unread[0]}={changes[unread[0]]!r}: a stage has one view, of its image_size")
    if changes.get("scale", 0) is None:  # a given None is the crop of evaluation, not "leave it"
        start = dataclasses.replace(start, scale=None)
    return options.read(View, changes, "augment", base=start)


def _parsed(preset: str) -> dict[str, Any]:
    """Read "light,vflip=0.5" as {"base": "light", "vflip": 0.5}. Raise UserError for a value that is not Python's."""
    name, *changes = re.split(r",\s*(?=\w+\s*=)", preset)
    found: dict[str, Any] = {"base": name.strip()}
    for change in changes:
        field, _, text = change.partition("=")
        try:
            found[field.strip()] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            if field.strip() in TEXTS:
                found[field.strip()] = text.strip()
                continue
            raise UserError(
                f"augment={preset!r}: {text!r} is not a value for {field}, such as 0.5 or (0.2, 1.0)"
            ) from None
    return found
