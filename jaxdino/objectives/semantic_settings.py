"""The settings of semantic segmentation."""

import dataclasses
from typing import Any, ClassVar

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice, check_range
from jaxdino.objectives import class_weights
from jaxdino.objectives.stage_settings import ObjectiveSettings

HEADS = ("linear", "mlp", "fpn", "dpt")
BALANCED = "balanced"


@dataclasses.dataclass(frozen=True)
class Labelling(ObjectiveSettings):
    """The head that gives every pixel a class, its losses, and the windows of evaluation.

    Attributes:
      head: "linear", on the patch tokens; "mlp", SegFormer's layers on four feature maps; "fpn", a feature pyramid on
        the last block of a ViT or on stages; "dpt", the DPT decoder.
      blocks: number of last blocks whose patch tokens the linear head reads, or of last feature maps.
      width: channels of the decoders, of fpn a multiple of 8.
      dropout: share of the features that is dropped before the last layer, in training.
      cross_entropy: weight of the cross entropy of pixels; 0: off.
      dice: weight of the Dice loss, the mean over the classes of an image.
      lovasz: weight of the Lovasz loss, which stands for the IoU of the classes of an image.
      focal_gamma: exponent that lowers the cross entropy of pixels that are classified well; 0: off.
      class_weights: weight of the pixels of each class in the cross entropy: one for each class in order, "balanced"
        (the inverse of the class's share of the pixels of 200 training masks), or None: 1.
      boundary_ignore: pixels with another class so many pixels away or nearer are not learned; 0: off.
      short_side: short side of the images in evaluation, pixels, cut into windows of the training size; 0: their own
        size; None: the training size.
    """

    head: str = "linear"
    blocks: int = 1
    width: int = 128
    dropout: float = 0.0
    cross_entropy: float = 1.0
    dice: float = 0.0
    lovasz: float = 0.0
    focal_gamma: float = 0.0
    class_weights: Any = None
    boundary_ignore: int = 0
    short_side: int | None = None
    of_run: ClassVar = ("head", "blocks", "width", "dropout", "short_side")
    reads: ClassVar = (r"model\.(num_classes|drop_head)",)
    idle: ClassVar = (
        ("blocks", lambda s: s["head"] == "linear", "only objective.head=linear reads it"),
        ("width", lambda s: s["head"] != "linear", "objective.head=linear has none"),
        ("(focal_gamma|class_weights)", lambda s: s["cross_entropy"] > 0, "cross_entropy=0"),
    )

    def __post_init__(self):
        check_choice("objective.head", self.head, HEADS)
        check_range("objective.blocks", self.blocks, "[1, inf)")
        check_range("objective.width", self.width, "[1, inf)")
        check_range("objective.dropout", self.dropout, "[0, 1)")
        for name in ("cross_entropy", "dice", "lovasz", "focal_gamma"):
            check_range(f"objective.{name}", getattr(self, name), "[0, inf)")
        if not self.cross_entropy + self.dice + self.lovasz:
            raise UserError("objective.cross_entropy, dice and lovasz are all 0: there is nothing to learn")
        weights = class_weights.checked("objective.class_weights", self.class_weights, (BALANCED,))
        object.__setattr__(self, "class_weights", weights)
        check_range("objective.boundary_ignore", self.boundary_ignore, "[0, 100]")
        if self.short_side is not None:
            check_range("objective.short_side", self.short_side, "[0, inf)")
