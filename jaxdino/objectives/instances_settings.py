"""The settings of instance and panoptic segmentation."""

import dataclasses
from typing import ClassVar

from jaxdino.core.options import check_range
from jaxdino.objectives.stage_settings import ObjectiveSettings


@dataclasses.dataclass(frozen=True)
class Masking(ObjectiveSettings):
    """The head of mask queries and its losses (docs/instances.md).

    Attributes:
      queries: the most regions of an image that can be found.
      layers: of a vision transformer, the last blocks that the queries pass through; of other networks, layers of the
        decoder.
      width: channels of the decoder on networks with feature maps, a multiple of 8.
      points: points at which the masks of an image are compared with the true ones; a quarter is drawn evenly, the
        others where the masks are least certain. 0: at all cells of the masks, which is faster for small images.
      class_weight, mask_weight, dice_weight: of the losses, and of the costs by which queries and objects are matched.
      none_weight: weight of the queries without an object in the cross entropy of the classes.
      threshold: smallest probability of a region in the map of all regions.
    """

    queries: int = 100
    layers: int = 4
    width: int = 128
    points: int = 2048
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    none_weight: float = 0.1
    threshold: float = 0.5
    of_run: ClassVar = ("queries", "layers", "width", "threshold")
    reads: ClassVar = (r"model\.(num_classes|drop_head)",)

    def __post_init__(self):
        for name in ("queries", "layers"):
            check_range(f"objective.{name}", getattr(self, name), "[1, inf)")
        check_range("objective.points", self.points, "[0, inf)")
        check_range("objective.width", self.width, "[8, inf)")
        for name in ("class_weight", "mask_weight", "dice_weight"):
            check_range(f"objective.{name}", getattr(self, name), "[0, inf)")
        check_range("objective.none_weight", self.none_weight, "(0, 1]")
        check_range("objective.threshold", self.threshold, "[0, 1]")
