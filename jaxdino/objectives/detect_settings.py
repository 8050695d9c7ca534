"""The settings of detection."""

import dataclasses
from typing import ClassVar

from jaxdino.core.options import check_range
from jaxdino.objectives.stage_settings import ObjectiveSettings


@dataclasses.dataclass(frozen=True)
class Detecting(ObjectiveSettings):
    """The dense detection head and its losses (docs/detection.md).

    Attributes:
      blocks: of a ViT, the number of last blocks whose patch tokens the head reads; other networks have feature maps.
      width: channels of the feature pyramid and the head, a multiple of 8.
      convs: convolutions of the head before its predictions, for classes and for boxes each.
      radius: a place learns an object if it is less than this many strides from the object's centre.
      focal_alpha: weight of the true class in the focal loss; background has 1 minus this.
      focal_gamma: exponent of the focal loss, which lowers the weight of places that are classified well.
      mosaic: share of the training images that become mosaics of themselves and three others; 0: off.
    """

    blocks: int = 1
    width: int = 128
    convs: int = 2
    radius: float = 1.5
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    mosaic: float = 0.0
    of_run: ClassVar = ("blocks", "width", "convs")
    reads: ClassVar = (r"model\.(num_classes|drop_head)",)

    def __post_init__(self):
        check_range("objective.blocks", self.blocks, "[1, inf)")
        check_range("objective.width", self.width, "[8, inf)")
        check_range("objective.convs", self.convs, "[0, inf)")
        check_range("objective.radius", self.radius, "(0, inf)")
        check_range("objective.focal_alpha", self.focal_alpha, "[0, 1]")
        check_range("objective.focal_gamma", self.focal_gamma, "[0, inf)")
        check_range("objective.mosaic", self.mosaic, "[0, 1]")
