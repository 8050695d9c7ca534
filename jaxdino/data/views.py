"""Recipes for the views of an image in self-distillation: crops and colour augmentation, as data.

The crop is made on the host (`multicrop`), the rest on the device (`device_views`).
"""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxdino.core import options
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean

KINDS = ("global", "local")
MIN_GLOBAL = 2  # each student view is compared with a different view of the teacher


@dataclasses.dataclass(frozen=True)
class View:
    """`count` crops of one recipe. Order of the steps: crop, flips, jitter, grey, blur, solarise.

    Attributes:
      kind: "global" views go through teacher and student, "local" ones only through the student.
      size: height and width in pixels.
      count: number of crops.
      scale: smallest and largest share of the image's area.
      ratio: smallest and largest width / height of the crop.
      degrees: the crop box is rotated about its centre by an angle from -x to x.
      hflip, vflip: probabilities.
      brightness, contrast, saturation: a factor from 1 - x to 1 + x.
      hue: -x to x turns of the colour circle.
      jitter_prob, gray_prob, blur_prob, solarize_prob: probabilities.
      blur_sigma: smallest and largest standard deviation of the Gaussian, in pixels of the crop.
      solarize_threshold: in 0..1; values at or above it are inverted.
    """

    kind: str = "global"
    size: int = 224
    scale: tuple[float, float] = (0.4, 1.0)
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

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"a view's kind={self.kind!r} is not known; {did_you_mean(str(self.kind), KINDS)}")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
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
    "size": (1, INF),
    "count": (0, INF),
    "scale": (1e-6, 1),
    "ratio": (1e-6, INF),
    "degrees": (0, 180),
    **dict.fromkeys(("hflip", "vflip", "jitter_prob", "gray_prob", "blur_prob", "solarize_prob"), (0, 1)),
    **dict.fromkeys(("brightness", "contrast", "saturation"), (0, INF)),
    "hue": (0, 0.5),
    "blur_sigma": (0, 100),
    "solarize_threshold": (0, 1),
}
"""The allowed interval of each field, both ends included."""

GLOBAL_1 = View("global", 224, (0.4, 1.0), blur_prob=1.0)
GLOBAL_2 = View("global", 224, (0.4, 1.0), blur_prob=0.1, solarize_prob=0.2)
LOCAL = View("local", 96, (0.05, 0.4), count=8, blur_prob=0.5)
DINO = (GLOBAL_1, GLOBAL_2, LOCAL)
"""Source: facebookresearch/dino main_dino.py DataAugmentationDINO, with the scales used in its README."""


def check(views: Sequence[Mapping | View]) -> tuple[View, ...]:
    """Read and check the views of one image.

    Raises:
      UserError: for fewer than two global views, or different sizes among global or among local views.
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
    return views


def expanded(views: Sequence[View], kind: str) -> tuple[View, ...]:
    """Return one `View` of count 1 for each crop of that kind, in order."""
    chosen = [view for view in views if view.kind == kind]
    return tuple(dataclasses.replace(view, count=1) for view in chosen for _ in range(view.count))
