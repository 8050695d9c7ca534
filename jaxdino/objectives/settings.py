"""The settings of each objective by its name. Those with many fields stand in files of their own."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice, check_range
from jaxdino.objectives import class_weights
from jaxdino.objectives.depth_settings import Ranging
from jaxdino.objectives.detect_settings import Detecting
from jaxdino.objectives.distill_settings import Distill
from jaxdino.objectives.instances_settings import Masking
from jaxdino.objectives.segment_settings import Segmenting
from jaxdino.objectives.semantic_settings import Labelling
from jaxdino.objectives.stage_settings import ObjectiveSettings, given_in

BALANCED, EFFECTIVE = "balanced", "effective"


@dataclasses.dataclass(frozen=True)
class Classifying(ObjectiveSettings):
    """The cross entropy of one label, and what makes up for unequal numbers of images (docs/imbalance.md).

    Attributes:
      class_weights: weight of the images of each class: one for each class in order, "balanced" (the inverse of the
        class's share of the training images), "effective" (the inverse effective number of images), or None: 1.
      effective_beta: beta of the effective number; nearer to 1 is nearer to "balanced".
      focal_gamma: exponent of the focal loss, which lowers the weight of images that are classified well; 0: off.
      logit_adjustment: adds this multiple of the log share of each class to its logit in training; 1 is the balanced
        softmax, 0: off.
    """

    class_weights: Any = None
    effective_beta: float = 0.999
    focal_gamma: float = 0.0
    logit_adjustment: float = 0.0
    idle: ClassVar = (
        ("effective_beta", lambda s: s["class_weights"] == EFFECTIVE, 'only class_weights="effective" reads it'),
    )

    def __post_init__(self):
        weights = class_weights.checked("objective.class_weights", self.class_weights, (BALANCED, EFFECTIVE))
        object.__setattr__(self, "class_weights", weights)
        check_range("objective.effective_beta", self.effective_beta, "[0, 1)")
        check_range("objective.focal_gamma", self.focal_gamma, "[0, inf)")
        check_range("objective.logit_adjustment", self.logit_adjustment, "[0, inf)")


@dataclasses.dataclass(frozen=True)
class Teaching(Classifying):
    """What a student learns from a teacher, beside the labels (docs/distillation.md).

    The loss is (1 - alpha) x the cross entropy of the labels + alpha x that of the teacher's softened probabilities +
    `features` x the distance of the class tokens + `patches` x that of the patch tokens.

    Attributes:
      teacher: the teacher's weights: the folder of a run, a file, a folder, a hub name or a published name.
      alpha: share of the teacher's probabilities; 0 for a teacher without a head. Images without labels: their weight.
      temperature: divides the logits of both.
      features: weight of the distance between the class tokens; 0: off.
      patches: weight of the distance between the patch tokens, at the teacher's grid; 0: off.
      distance: "cosine" (1 - cosine) or "mse" (the mean over channels).
      teacher_size: size in pixels of the images that the teacher sees; None: that of the student's, in whole patches.
      cache: compute the teacher's outputs once, of each image as in evaluation, in place of every augmented image in
        every epoch; needs patches=0 and no mixup or cutmix.
    """

    teacher: str | None = None
    alpha: float = 0.5
    temperature: float = 4.0
    features: float = 0.0
    patches: float = 0.0
    distance: str = "cosine"
    teacher_size: int | None = None
    cache: bool = False
    of_run: ClassVar = ("teacher", "teacher_size", "cache")
    idle: ClassVar = (
        *Classifying.idle,
        ("temperature", lambda s: s["alpha"] > 0, "alpha=0 leaves the teacher's probabilities out"),
        ("distance", lambda s: s["features"] > 0 or s["patches"] > 0, "features=0 and patches=0 compare no tokens"),
    )

    def __post_init__(self):
        super().__post_init__()
        check_range("objective.alpha", self.alpha, "[0, 1]")
        check_range("objective.temperature", self.temperature, "(0, inf)")
        check_range("objective.features", self.features, "[0, inf)")
        check_range("objective.patches", self.patches, "[0, inf)")
        check_choice("objective.distance", self.distance, ("cosine", "mse"))
        if self.teacher_size is not None:
            check_range("objective.teacher_size", self.teacher_size, "[1, inf)")


@dataclasses.dataclass(frozen=True)
class Multilabelling(ObjectiveSettings):
    """The binary cross entropy of several labels, named as in timm and torch.

    Attributes:
      pos_weight: weight of the images that have a class: a number, one for each class in order, "balanced" (images of
        the training split without the class, divided by those with it), or None: 1.
      target_threshold: labels softened by mixing or smoothing become 1 above this value and 0 below; None: as they are.
      sum_classes: sum the loss over classes instead of averaging it; None: False.
      focal_gamma: exponent of the focal loss, which lowers the weight of labels that are predicted well; 0: off.
    """

    pos_weight: Any = None
    target_threshold: float | None = None
    sum_classes: bool = False
    focal_gamma: float = 0.0

    def __post_init__(self):
        weight = class_weights.checked("objective.pos_weight", self.pos_weight, (BALANCED,))
        object.__setattr__(self, "pos_weight", weight)
        check_range("objective.focal_gamma", self.focal_gamma, "[0, inf)")
        if self.target_threshold is not None:
            check_range("objective.target_threshold", self.target_threshold, "[0, 1)")


OBJECTIVES: dict[str, type[ObjectiveSettings]] = {
    "classify": Classifying,
    "depth": Ranging,
    "detect": Detecting,
    "distill": Distill,
    "instances": Masking,
    "knowledge_distillation": Teaching,
    "multilabel": Multilabelling,
    "segment": Segmenting,
    "semantic": Labelling,
}
"""objective.name -> its settings; `jaxdino.train.tasks` has a module of each name."""


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
