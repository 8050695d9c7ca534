"""The parts of an evaluation by name: functions of a `Context` that return sections of the report."""

from collections.abc import Callable, Sequence

from jaxdino.evaluation.attacks import attacks
from jaxdino.evaluation.calibration.section import calibration
from jaxdino.evaluation.context import Context
from jaxdino.evaluation.curves import OperatingPoint
from jaxdino.evaluation.errors.section import errors
from jaxdino.evaluation.groups import groups
from jaxdino.evaluation.metrics import measured
from jaxdino.evaluation.metrics_section import metrics_section
from jaxdino.evaluation.ood import ood, transfer
from jaxdino.evaluation.robustness import robustness
from jaxdino.evaluation.section import Section
from jaxdino.evaluation.speed import speed

Part = Callable[[Context], Sequence[Section]]


def metrics(context: Context) -> list[Section]:
    """Measure the split, and each group of it."""
    found, how = context.found, context.resampling
    points = [OperatingPoint.of(text) for text in context.settings.at]
    chosen_on = context.validation if points else found
    sections = [metrics_section(found, measured(found, context.thresholds, how), chosen_on, points, how)]
    if context.groups:
        sections.append(groups(found, context.groups, context.thresholds, how))
    return sections


PARTS: dict[str, Part] = {
    "metrics": metrics,
    "calibration": calibration,
    "errors": errors,
    "robustness": robustness,
    "attacks": attacks,
    "ood": ood,
    "transfer": transfer,
    "speed": speed,
}
"""Parts in the order of the report."""
DEFAULT = ("metrics", "calibration", "speed")
"""Parts that are measured if none are named."""
