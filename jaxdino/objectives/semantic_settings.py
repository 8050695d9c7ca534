"""The settings of semantic segmentation."""

import dataclasses
from typing import ClassVar

from jaxdino.core.options import check_range
from jaxdino.objectives.stage_settings import ObjectiveSettings


@dataclasses.dataclass(frozen=True)
class Labelling(ObjectiveSettings):
    """The head on the patch tokens, and the windows of evaluation.

    Attributes:
      blocks: number of last blocks whose patch tokens the head reads.
      dropout: share of the features that is dropped before the head, in training.
      short_side: short side of the images in evaluation, pixels, cut into windows of the training size; 0: their own
        size; None: the training size.
    """

    blocks: int = 1
    dropout: float = 0.0
    short_side: int | None = None
    of_run: ClassVar = ("blocks", "dropout", "short_side")
    reads: ClassVar = (r"model\.(num_classes|drop_head)",)

    def __post_init__(self):
        check_range("objective.blocks", self.blocks, "[1, inf)")
        check_range("objective.dropout", self.dropout, "[0, 1)")
        if self.short_side is not None:
            check_range("objective.short_side", self.short_side, "[0, inf)")
