"""Recipes for the views of an image, as data: crop, flips, turns, distortions, colours, blur, noise, erasing, mixing.

The geometry is applied on the host (`geometry`), the photometric part on the device (`photometric`), mixing to whole
batches (`mixing`). An augmentation preset is one view per image; self-distillation takes several.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdino.core import options, size_text
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.data import policies

KINDS = ("global", "local")
MIN_GLOBAL = 2  # each student view is compared with a different view of the teacher


@dataclasses.dataclass(frozen=True)
class View:
    """`count` crops of one recipe.

    Order of the steps: crop with rotation; zoom, shear, shift; perspective; the operations of `auto` that move pixels;
    grid and elastic distortion; flips; quarter turns (all of these in one resampling); the other operations of `auto`;
    jitter (brightness, contrast, saturation, hue, gamma, sharpness), grey, autocontrast, equalise, blur, motion blur,
    solarise, posterise, invert, noise, JPEG, normalise, erase, mix.

    Attributes:
      kind: "global" views go through teacher and student, "local" ones only through the student.
      size: in pixels: 224, or 192x256 (height x width), in a config (192, 256).
      count: number of crops.
      scale: smallest and largest share of the image's area; None: the crop is that of evaluation.
      ratio: smallest and largest width / height of the crop, relative to that of its size.
      degrees: the crop box is rotated about its centre by an angle from -x to x.
      shear: along x and along y, each by an angle from -x to x degrees.
      shift: along x and along y, each by -x to x of the crop's side.
      zoom: smallest and largest factor by which the content of the crop grows.
      perspective: each corner of the crop moves inward by up to x of half its sides.
      warp: standard deviation of an elastic displacement, as a share of the crop's side.
      grid: the columns and rows of a 5 x 5 grid are stretched by a factor from 1 - x to 1 + x.
      hflip, vflip: probabilities.
      quarter: probability of a quarter turn: by 0, 90, 180 or 270 degrees, each equally likely.
      affine_prob: probability of rotation, shear, shift and zoom together.
      perspective_prob: probability of perspective.
      distort_prob: probability of elastic and grid distortion together.
      brightness, contrast, saturation: a factor from 1 - x to 1 + x.
      hue: -x to x turns of the colour circle.
      jitter_prob, gray_prob, blur_prob, solarize_prob, erase_prob: probabilities.
      blur_sigma: smallest and largest standard deviation of the Gaussian, in pixels of the crop.
      solarize_threshold: in 0..1; values at or above it are inverted.
      noise: standard deviation of Gaussian noise, for pixels in 0..1.
      gamma: values are raised to an exponent from 1 / (1 + x) to 1 + x; one of the jitter.
      sharpness: a factor from 1 - x (0 is smooth) to 1 + x (2 is sharp); one of the jitter.
      autocontrast_prob, equalize_prob, posterize_prob, invert_prob: probabilities.
      posterize_bits: fewest and most bits that are kept of a value.
      motion_blur_prob: probability.
      motion_blur_size: shortest and longest line of the blur, in pixels of the crop.
      auto: automatic augmentation before the jitter: "", "randaugment:2:9" (operations, magnitude), "trivialaugment" or
        "augmix:3" (severity); see `policies`.
      jpeg_prob: probability of the artefacts of a JPEG.
      jpeg_quality: lowest and highest quality, as in Pillow.
      erase_area, erase_ratio: smallest and largest share of the area, and height / width, of the erased box.
      mixup, cutmix: alphas; 0 is off.
      mix_prob: share of mixed batches.
      switch_prob: with both mixup and CutMix, the share of CutMix among the mixed batches.
    """

    kind: str = "global"
    size: Any = 224
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
    shear: float = 0.0
    shift: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    perspective: float = 0.0
    grid: float = 0.0
    quarter: float = 0.0
    affine_prob: float = 1.0
    perspective_prob: float = 1.0
    distort_prob: float = 1.0
    gamma: float = 0.0
    sharpness: float = 0.0
    autocontrast_prob: float = 0.0
    equalize_prob: float = 0.0
    motion_blur_prob: float = 0.0
    motion_blur_size: tuple[int, int] = (3, 7)
    posterize_prob: float = 0.0
    posterize_bits: tuple[int, int] = (4, 8)
    invert_prob: float = 0.0
    jpeg_prob: float = 0.0
    jpeg_quality: tuple[int, int] = (50, 95)
    auto: str = ""

    def __post_init__(self):
        policies.parsed(self.auto)
        if self.kind not in KINDS:
            raise UserError(f"a view's kind={self.kind!r} is not known; {did_you_mean(str(self.kind), KINDS)}")
        height, width = size_text.read_size(self.size, f"a {self.kind} view's size")
        object.__setattr__(self, "size", height if height == width else (height, width))
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is None:  # scale
                continue
            ends = value if isinstance(value, tuple) else (value,)
            if not all(low <= end <= high for end in ends) or list(ends) != sorted(ends):
                order = ", the smaller first" if len(ends) > 1 else ""
                raise UserError(f"a {self.kind} view's {name}={value} must lie in {low:g} to {high:g}{order}")

    @classmethod
    def of(cls, given: "Mapping | View") -> "View":
        """Read a dict or ConfigDict (see `options.read`)."""
        return options.read(cls, given, "a view")


INF = float("inf")
RANGES = {
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
    "shear": (0, 60),
    "shift": (0, 1),
    "zoom": (0.1, 10),
    "perspective": (0, 0.5),
    "grid": (0, 0.4),
    **dict.fromkeys(("quarter", "affine_prob", "perspective_prob", "distort_prob"), (0, 1)),
    **dict.fromkeys(("erase_prob", "erase_area", "mix_prob", "switch_prob"), (0, 1)),
    "erase_ratio": (1e-6, INF),
    **dict.fromkeys(("mixup", "cutmix", "gamma", "sharpness"), (0, INF)),
    **dict.fromkeys(("autocontrast_prob", "equalize_prob", "posterize_prob", "invert_prob"), (0, 1)),
    **dict.fromkeys(("motion_blur_prob", "jpeg_prob"), (0, 1)),
    "motion_blur_size": (1, 99),
    "posterize_bits": (1, 8),
    "jpeg_quality": (1, 100),
}
"""The allowed interval of each field, both ends included."""
OF_CROPS = ("kind", "size", "count")
"""Fields of a view that a preset does not have: a stage has one view, of its image size."""
GLOBAL_1 = View("global", 224, (0.4, 1.0), blur_prob=1.0)
GLOBAL_2 = View("global", 224, (0.4, 1.0), blur_prob=0.1, solarize_prob=0.2)
LOCAL = View("local", 96, (0.05, 0.4), count=8, blur_prob=0.5)
DINO = (GLOBAL_1, GLOBAL_2, LOCAL)
"""Source: facebookresearch/dino main_dino.py DataAugmentationDINO, with the scales used in its README."""


def without_geometry(view: View) -> View:
    """Return the view with the default geometry: equal for views that the device treats alike."""
    return dataclasses.replace(view, **{name: getattr(View, name) for name in GEOMETRIC})


GEOMETRIC = (
    *(*OF_CROPS, "scale", "ratio", "degrees", "shear", "shift", "zoom", "affine_prob", "perspective"),
    *("perspective_prob", "warp", "grid", "distort_prob", "hflip", "vflip", "quarter"),
)
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
        sizes = sorted({view.size for view in found}, key=str)
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
