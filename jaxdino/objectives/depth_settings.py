"""The settings of depth estimation."""

import dataclasses
from typing import ClassVar

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice, check_range
from jaxdino.objectives.stage_settings import ObjectiveSettings

HEADS = ("linear", "dpt")


@dataclasses.dataclass(frozen=True)
class Ranging(ObjectiveSettings):
    """The head that gives each pixel a depth, its losses, and how images are evaluated (docs/depth.md).

    Attributes:
      head: "linear", bins of depth on the patch tokens and the class token; "dpt", the DPT decoder.
      blocks: of a ViT, the number of last blocks that the linear head reads; 1 for networks with feature maps.
      width: channels of the DPT decoder.
      bins: depths of the linear head, evenly spaced between min_depth and max_depth.
      min_depth: smallest depth that is predicted, learned and measured, in metres.
      max_depth: largest one; None: a tenth above that of the training maps, which the run says.
      silog_lambda: 0 is the mean squared error of log depth; 1 ignores the scale of an image.
      gradient_weight: weight of the difference between gradients of log depth; 0: off.
      short_side: short side of the images in evaluation, pixels, cut into windows of the training size; 0: their own
        size; None: all of the image, resized to the training size (with data.crop_mode=squash).
    """

    head: str = "linear"
    blocks: int = 1
    width: int = 128
    bins: int = 256
    min_depth: float = 0.001
    max_depth: float | None = None
    silog_lambda: float = 0.85
    gradient_weight: float = 0.5
    short_side: int | None = None
    of_run: ClassVar = ("head", "blocks", "width", "bins", "min_depth", "max_depth", "short_side")
    reads: ClassVar = (r"model\.drop_head",)
    idle: ClassVar = (
        ("(blocks|bins)", lambda s: s["head"] == "linear", "only objective.head=linear reads it"),
        ("width", lambda s: s["head"] == "dpt", "only objective.head=dpt reads it"),
    )

    def __post_init__(self):
        check_choice("objective.head", self.head, HEADS)
        check_range("objective.blocks", self.blocks, "[1, inf)")
        check_range("objective.width", self.width, "[2, inf)")
        check_range("objective.bins", self.bins, "[2, inf)")
        check_range("objective.min_depth", self.min_depth, "(0, inf)")
        if self.max_depth is not None and not self.min_depth < self.max_depth < float("inf"):
            raise UserError(f"objective.max_depth={self.max_depth} must be above objective.min_depth={self.min_depth}")
        check_range("objective.silog_lambda", self.silog_lambda, "[0, 1]")
        check_range("objective.gradient_weight", self.gradient_weight, "[0, inf)")
        if self.short_side is not None:
            check_range("objective.short_side", self.short_side, "[0, inf)")
