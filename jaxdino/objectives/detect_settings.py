"""The settings of detection."""

import dataclasses
from typing import ClassVar

from jaxdino.core.options import check_choice, check_range
from jaxdino.objectives.stage_settings import ObjectiveSettings

HEADS = ("fcos", "detr")


@dataclasses.dataclass(frozen=True)
class Detecting(ObjectiveSettings):
    """The dense detection head and its losses (docs/detection.md).

    Attributes:
      head: "fcos", dense; "detr", queries with proposals, refinement and denoising.
      blocks: of a ViT, the number of last blocks whose patch tokens the head reads; other networks have feature maps.
      width: channels of the feature pyramid and the head, a multiple of 8.
      convs: convolutions of the head before its predictions, for classes and for boxes each.
      radius: a place learns an object if it is less than this many strides from the object's centre.
      focal_alpha: weight of the true class in the focal loss; background has 1 minus this.
      focal_gamma: exponent of the focal loss, which lowers the weight of places that are classified well.
      queries, layers: of the head detr: the most objects of an image, and layers of its decoder.
      denoising: the most noisy true objects of an image that the head detr learns to correct; 0: off.
      mosaic: share of the training images that become mosaics of themselves and three others; 0: off.
    """

    head: str = "fcos"
    blocks: int = 1
    width: int = 128
    convs: int = 2
    radius: float = 1.5
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    mosaic: float = 0.0
    queries: int = 100
    layers: int = 3
    denoising: int = 100
    of_run: ClassVar = ("head", "blocks", "width", "convs", "queries", "layers")
    reads: ClassVar = (r"model\.(num_classes|drop_head)",)
    idle: ClassVar = (
        ("(blocks|convs|radius)", lambda s: s["head"] == "fcos", "only objective.head=fcos reads it"),
        ("(queries|layers|denoising)", lambda s: s["head"] == "detr", "only objective.head=detr reads it"),
    )

    def __post_init__(self):
        check_choice("objective.head", self.head, HEADS)
        check_range("objective.queries", self.queries, "[1, inf)")
        check_range("objective.layers", self.layers, "[1, inf)")
        check_range("objective.denoising", self.denoising, "[0, inf)")
        check_range("objective.blocks", self.blocks, "[1, inf)")
        check_range("objective.width", self.width, "[8, inf)")
        check_range("objective.convs", self.convs, "[0, inf)")
        check_range("objective.radius", self.radius, "(0, inf)")
        check_range("objective.focal_alpha", self.focal_alpha, "[0, 1]")
        check_range("objective.focal_gamma", self.focal_gamma, "[0, inf)")
        check_range("objective.mosaic", self.mosaic, "[0, 1]")
