"""Recipes for the views of an image, as data: crop, flips, rotation, colours, blur, noise, erasing, mixing.

The geometry is applied on the host (`geometry`), the photometric part on the device (`photometric`), mixing to whole
batches (`mixing`). An augmentation preset is one view per image; self-distillation takes several.
"""

import ast
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdino.core import options
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean, nearest

KINDS = ("global", "local")
MIN_GLOBAL = 2  # each student view is compared with a different view of the teacher


@dataclasses.dataclass(frozen=True)
class View:
    """`count` crops of one recipe.

    Order of the steps: crop with rotation and warp, flips, jitter, grey, blur, solarise, noise, normalise, erase, mix.

    Attributes:
      kind: "global" views go through teacher and student, "local" ones only through the student.
      size: height and width in pixels.
      count: number of crops.
      scale: smallest and largest share of the image's area; None: the crop is that of evaluation.
      ratio: smallest and largest width / height of the crop.
      degrees: the crop box is rotated about its centre by an angle from -x to x.
      warp: standard deviation of an elastic displacement, as a share of the crop's side.
      hflip, vflip: probabilities.
      brightness, contrast, saturation: a factor from 1 - x to 1 + x.
      hue: -x to x turns of the colour circle.
      jitter_prob, gray_prob, blur_prob, solarize_prob, erase_prob: probabilities.
      blur_sigma: smallest and largest standard deviation of the Gaussian, in pixels of the crop.
      solarize_threshold: in 0..1; values at or above it are inverted.
      noise: standard deviation of Gaussian noise, for pixels in 0..1.
      erase_area, erase_ratio: smallest and largest share of the area, and height / width, of the erased box.
      mixup, cutmix: alphas; 0 is off.
      mix_prob: share of mixed batches.
      switch_prob: with both mixup and CutMix, the share of CutMix among the mixed batches.
    """

    kind: str = "global"
    size: int = 224
    scale: tuple[float, float] | None = (0.4, 1.0)
    count: int = 1
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    degrees: float = 0.0
    hflip: float = 0.5
    vflip: float = 0.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    jitter_prob: float = 0.8
    gray_prob: float = 0.2
    blur_prob: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_prob: float = 0.0
    solarize_threshold: float = 128 / 255
    warp: float = 0.0
    noise: float = 0.0
    erase_prob: float = 0.0
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    erase_ratio: tuple[float, float] = (0.3, 10 / 3)
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    switch_prob: float = 0.5

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"a view's kind={self.kind!r} is not known; {did_you_mean(str(self.kind), KINDS)}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is None:  # scale
                continue
            ends = value if isinstance(value, tuple) else (value,)
            if not all(low <= end <= high for end in ends) or list(ends) != sorted(ends):
                order = ", the smaller first" if len(ends) > 1 else ""
                raise UserError(f"a {self.kind} view's {name}={value} must lie in {low:g} to {high:g}{order}")
        if self.scale is None and (self.degrees or self.warp):
            raise UserError(
                f"a view with degrees={self.degrees} and warp={self.warp} needs a random crop: set scale, such as "
                "scale=(1.0, 1.0) for the whole image"
            )

    @classmethod
    def of(cls, given: "Mapping | View") -> "View":
        """Read a dict or ConfigDict (see `options.read`)."""
        return options.read(cls, given, "a view")


INF = float("inf")
RANGES = {
    "size": (1, 16_384),
    "count": (0, INF),
    "scale": (1e-6, 1),
    "ratio": (1e-6, INF),
    "degrees": (0, 180),
    **dict.fromkeys(("hflip", "vflip", "jitter_prob", "gray_prob", "blur_prob", "solarize_prob"), (0, 1)),
    **dict.fromkeys(("brightness", "contrast", "saturation", "noise"), (0, INF)),
    "hue": (0, 0.5),
    "blur_sigma": (0, 100),
    "solarize_threshold": (0, 1),
    "warp": (0, 0.2),
    **dict.fromkeys(("erase_prob", "erase_area", "mix_prob", "switch_prob"), (0, 1)),
    "erase_ratio": (1e-6, INF),
    **dict.fromkeys(("mixup", "cutmix"), (0, INF)),
}
"""The allowed interval of each field, both ends included."""
OF_CROPS = ("kind", "size", "count")
"""Fields of a view that a preset does not have: a stage has one view, of its image size."""
OFF = dict(hflip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, gray_prob=0.0, blur_prob=0.0)

_NONE = View(scale=None, jitter_prob=1.0, **OFF)
_CROP = dataclasses.replace(_NONE, scale=(0.5, 1.0), ratio=(0.8, 1.25))  # images of a fixed orientation: digits, scans
_LIGHT = dataclasses.replace(_NONE, scale=(0.35, 1.0), hflip=0.5)
_MEDIUM = dataclasses.replace(_LIGHT, scale=(0.2, 1.0), brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02)
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
PRESETS: dict[str, View] = {
    "none": _NONE,
    "crop": _CROP,
    "light": _LIGHT,
    "medium": _MEDIUM,
    "strong": _STRONG,
}
"""data.augment -> its view."""

GLOBAL_1 = View("global", 224, (0.4, 1.0), blur_prob=1.0)
GLOBAL_2 = View("global", 224, (0.4, 1.0), blur_prob=0.1, solarize_prob=0.2)
LOCAL = View("local", 96, (0.05, 0.4), count=8, blur_prob=0.5)
DINO = (GLOBAL_1, GLOBAL_2, LOCAL)
"""Source: facebookresearch/dino main_dino.py DataAugmentationDINO, with the scales used in its README."""


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
            raise UserError(
                f"augment={preset!r}: {text!r} is not a value for {field}, such as 0.5 or (0.2, 1.0)"
            ) from None
    return found


def without_geometry(view: View) -> View:
    """Return the view with the default geometry: equal for views that the device treats alike."""
    return dataclasses.replace(view, **{name: getattr(PRESETS["light"], name) for name in GEOMETRIC})


GEOMETRIC = (*OF_CROPS, "scale", "ratio", "degrees", "warp", "hflip", "vflip")
"""Fields that the host applies."""


def unmixed(view: View) -> View:
    """Return the view without erasing and mixing, which would not keep an image and its mask together."""
    return dataclasses.replace(view, erase_prob=0.0, mixup=0.0, cutmix=0.0)


def check(views: Sequence[Mapping | View]) -> tuple[View, ...]:
    """Read and check the views of one image.

    Raises:
      UserError: for fewer than two global views, different sizes among global or among local views, or mixing.
    """
    views = tuple(View.of(view) for view in views)
    crops = {kind: expanded(views, kind) for kind in KINDS}
    if len(crops["global"]) < MIN_GLOBAL:
        raise UserError(
            f"there are {len(crops['global'])} global views; self-distillation compares at least {MIN_GLOBAL}: "
            'add a view of kind="global", or raise its count'
        )
    for kind, found in crops.items():
        sizes = sorted({view.size for view in found})
        if len(sizes) > 1:
            raise UserError(
                f"the {kind} views have the sizes {sizes}; those of one kind go through the network "
                f"as one batch: give all of them one size, such as {sizes[-1]}"
            )
        for view in found:
            if view.mixup or view.cutmix:
                raise UserError(f"a {kind} view has mixup={view.mixup} and cutmix={view.cutmix}: views are not mixed")
    return views


def expanded(views: Sequence[View], kind: str) -> tuple[View, ...]:
    """Return one `View` of count 1 for each crop of that kind, in order."""
    chosen = [view for view in views if view.kind == kind]
    return tuple(dataclasses.replace(view, count=1) for view in chosen for _ in range(view.count))
