"""Settings of self-distillation, and the published methods."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxdino.core import options
from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.objectives.stage_settings import ObjectiveSettings

NEGATIVES = ("none", "both", "reference")
CENTRINGS = ("centre", "sinkhorn", "none")


@dataclasses.dataclass(frozen=True)
class Distill(ObjectiveSettings):
    """Losses and teacher settings of self-distillation; each stage may override any of them.

    Attributes:
      dino: weight of the loss between the views of an image; 0 disables it, as for the next four.
      ibot: weight of the loss on masked patches.
      koleo: weight of the loss that spreads the features of a batch.
      gram: weight of the anchor that keeps the patches' similarities near those of the run's initial weights.
      anchor: weight of the anchor that keeps the class token near that of the run's initial weights.
      centring: prevents a collapse of the teacher's outputs: "centre" (its running mean), "sinkhorn" or "none".
      centre_momentum: momentum of the running centre.
      student_temperature: temperature of the student's softmax; keep it above the teacher's.
      teacher_temperature: temperature of the teacher's softmax, after the warm-up.
      warmup_teacher_temperature: teacher temperature at the start of the warm-up.
      warmup_teacher_temperature_epochs: length of the linear warm-up of the teacher's temperature.
      momentum: momentum of the teacher, rising to `final_momentum` by a cosine over the stage.
      final_momentum: momentum of the teacher at the stage's end.
      mask_prob: share of the global views that are masked (iBOT).
      mask_ratio: smallest and largest share of masked patches in a masked view (iBOT).
      gram_negatives: how negative similarities are treated: none, both or reference; see `gram_loss`.
    """

    dino: float = 1.0
    ibot: float = 0.0
    koleo: float = 0.0
    gram: float = 0.0
    anchor: float = 0.0
    centring: str = "centre"
    centre_momentum: float = 0.9
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    warmup_teacher_temperature: float = 0.04
    warmup_teacher_temperature_epochs: float = 0.0
    momentum: float = 0.996
    final_momentum: float = 1.0
    mask_prob: float = 0.5
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    gram_negatives: str = "none"
    reads: ClassVar = (r"(projection|evaluation|alarms)\..+", r"data\.views.*")
    idle: ClassVar = (
        (r"mask_.*", lambda s: s["ibot"] != 0, "ibot=0 masks nothing"),
        ("gram_negatives", lambda s: s["gram"] != 0, "gram=0 disables the anchor"),
        ("centre_momentum", lambda s: s["centring"] == "centre", "centring is not 'centre'"),
    )

    @classmethod
    def start(cls, objective: Mapping[str, Any]) -> "Distill":
        """Return the values of the published method."""
        if "method" not in objective:
            raise UserError(
                "objective.name='distill' needs the settings of self-distillation (objective.method, projection, "
                "data.views, ...), which this config does not have: start from configs/ssl.py"
            )
        return method_named(objective["method"])

    def changed(self, given: Mapping[str, Any], where: str) -> "Distill":
        """Return the settings with `given` applied. Raises UserError for an unknown field or a value out of range."""
        settings = super().changed(given, where)
        for name, interval in INTERVALS.items():
            check_range(f"{where}: objective.{name}", getattr(settings, name), interval)
        options.check_choice(f"{where}: centring", settings.centring, CENTRINGS)
        options.check_choice(f"{where}: gram_negatives", settings.gram_negatives, NEGATIVES)
        if list(settings.mask_ratio) != sorted(settings.mask_ratio):
            raise UserError(f"{where}: mask_ratio={settings.mask_ratio} must be two numbers, the smaller first")
        if not any(getattr(settings, name) for name in TERMS):
            raise UserError(f"{where}: all of {', '.join(TERMS)} are 0: there is nothing to learn from")
        return settings

    @property
    def anchored(self) -> bool:
        """Return whether the reference is used."""
        return self.gram > 0 or self.anchor > 0


@dataclasses.dataclass(frozen=True)
class Projection:
    """Settings of the projection heads, named as in the original code; see `DINOHeadConfig`.

    Attributes:
      out_dim: number of prototypes.
      hidden_dim: width of the hidden layers.
      bottleneck_dim: width before the prototypes.
      num_layers: number of layers before the prototypes.
      use_bn: use batch norm after the hidden layers.
      norm_last_layer: keep the prototypes' lengths at 1.
      separate: use a separate head for masked patches (DINOv3) instead of the class token's head (iBOT).
    """

    out_dim: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    num_layers: int = 3
    use_bn: bool = False
    norm_last_layer: bool = True
    separate: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Projection":
        """Read the settings from a config. Raises UserError for an unknown field or an empty head."""
        projection = options.read(cls, given, "projection")
        for name in ("out_dim", "hidden_dim", "bottleneck_dim", "num_layers"):
            check_range(f"projection.{name}", getattr(projection, name), "[1, inf)")
        return projection


_DINOV2 = dict(
    ibot=1.0,
    koleo=0.1,
    teacher_temperature=0.07,
    warmup_teacher_temperature=0.04,
    warmup_teacher_temperature_epochs=30.0,
    momentum=0.992,
)
METHODS: dict[str, dict[str, Any]] = {
    "dino": {},
    "dinov2": _DINOV2,
    "dinov3": _DINOV2 | dict(centring="sinkhorn", gram=2.0),
}
"""The published methods, as differences from the defaults of `Distill`, which are DINO's."""
INTERVALS = {
    **dict.fromkeys(("dino", "ibot", "koleo", "gram", "anchor", "warmup_teacher_temperature_epochs"), "[0, inf)"),
    **dict.fromkeys(("student_temperature", "teacher_temperature", "warmup_teacher_temperature"), "(0, inf)"),
    **dict.fromkeys(("centre_momentum", "momentum", "final_momentum", "mask_prob"), "[0, 1]"),
    "mask_ratio": "[0, 1)",
}
"""The valid values of each setting."""
TERMS = ("dino", "ibot", "koleo", "gram", "anchor")


def method_named(name: str) -> Distill:
    """Return a published method. Raises UserError with the nearest names if it is unknown."""
    options.check_choice("objective.method", name, tuple(METHODS))
    return Distill(**METHODS[name])
