"""The settings of each objective by its name. Those with many fields stand in files of their own."""

import dataclasses
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.objectives.distill_settings import Distill
from jaxdino.objectives.segment_settings import Segmenting
from jaxdino.objectives.semantic_settings import Labelling
from jaxdino.objectives.stage_settings import ObjectiveSettings, given_in

BALANCED = "balanced"


@dataclasses.dataclass(frozen=True)
class Multilabelling(ObjectiveSettings):
    """The binary cross entropy of several labels, named as in timm and torch.

    Attributes:
      pos_weight: weight of the images that have a class: a number, one for each class in order, "balanced" (images of
        the training split without the class, divided by those with it), or None: 1.
      target_threshold: labels softened by mixing or smoothing become 1 above this value and 0 below; None: as they are.
      sum_classes: sum the loss over classes instead of averaging it; None: False.
    """

    pos_weight: Any = None
    target_threshold: float | None = None
    sum_classes: bool = False

    def __post_init__(self):
        weight = self.pos_weight
        if isinstance(weight, Sequence) and not isinstance(weight, str):
            object.__setattr__(self, "pos_weight", tuple(weight))
        several = self.pos_weight if isinstance(self.pos_weight, tuple) else (self.pos_weight,)
        if weight is not None and weight != BALANCED:
            if not several or not all(isinstance(one, Real) and not isinstance(one, bool) for one in several):
                how = f'give a number, one for each class as (1.0, 2.5), or "{BALANCED}"'
                raise UserError(f"objective.pos_weight={weight!r}: {how}")
            check_range("objective.pos_weight", self.pos_weight, "(0, inf)")
        if self.target_threshold is not None:
            check_range("objective.target_threshold", self.target_threshold, "[0, 1)")


OBJECTIVES: dict[str, type[ObjectiveSettings]] = {
    "classify": ObjectiveSettings,
    "distill": Distill,
    "multilabel": Multilabelling,
    "segment": Segmenting,
    "semantic": Labelling,
}
"""objective.name -> its settings. An objective that is not named here is as "classify"."""


def class_of(objective: Mapping[str, Any]) -> type[ObjectiveSettings]:
    """Return the class of the settings of config.objective."""
    return OBJECTIVES.get(objective["name"], ObjectiveSettings)


def settings_of(config: Any, given: Mapping[str, Any], where: str) -> Any:
    """Return the settings of an objective: its own values, then those of config.objective, then those of a stage.

    Args:
      given: the settings of the stage (`Stage.objective`). where: name of the stage in errors.

    Raises:
      UserError: for an unknown field or a wrong value.
    """
    cls = class_of(config.objective)
    if whole := [name for name in given if name in cls.of_run]:
        raise UserError(f"{where}: objective.{whole[0]} holds for the whole run: set it in config.objective instead")
    known = given_in(config.objective) if dataclasses.fields(cls) else {}
    return cls.start(config.objective).changed({**known, **given}, where)
