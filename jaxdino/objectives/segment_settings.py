"""Settings of text-prompted segmentation."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.objectives.stage_settings import ObjectiveSettings

TERMS = ("dice", "bce", "iou", "align", "ssl")


@dataclasses.dataclass(frozen=True)
class Segmenting(ObjectiveSettings):
    """Weights of the losses of segmentation, each a mean over the pairs of a batch; 0 disables a loss.

    Attributes:
      dice: weight of the Dice loss of the mask's logits, at the size of the true mask.
      bce: weight of the cross entropy of the mask's logits, at the size of the true mask.
      iou: weight of the loss of the mask quality (IoU) that the decoder predicts.
      align: weight of the contrastive loss of the pooled image tokens against the prompt's feature.
      ssl: weight of the anchor of self-distillation: keeps the patches' similarities and the class token near those of
        the run's initial image encoder (Gram anchoring and feature distance, see `objectives.gram`).
      smooth: added to numerator and denominator of the Dice coefficient, in pixels.
      temperature: temperature of the alignment.
    """

    dice: float = 1.0
    bce: float = 1.0
    iou: float = 1.0
    align: float = 0.0
    ssl: float = 0.0
    smooth: float = 1.0
    temperature: float = 0.07
    reads: ClassVar = (r"(prompts|text|sam)\..+",)
    idle: ClassVar = (
        ("smooth", lambda s: s["dice"] != 0, "dice=0 disables that loss"),
        ("temperature", lambda s: s["align"] != 0, "align=0 disables that loss"),
    )

    def changed(self, given: Mapping[str, Any], where: str) -> "Segmenting":
        """Return the settings with `given` applied. Raises UserError for an unknown field or a value out of range."""
        settings = super().changed(given, where)
        for name in vars(settings):
            interval = "(0, inf)" if name == "temperature" else "[0, inf)"
            check_range(f"{where}: objective.{name}", getattr(settings, name), interval)
        if not any(getattr(settings, name) for name in TERMS):
            raise UserError(f"{where}: all of {', '.join(TERMS)} are 0: there is nothing to learn from")
        return settings

    @property
    def unmasked(self) -> bool:
        """Return whether an image without a mask contributes to the loss."""
        return self.align > 0 or self.ssl > 0
