"""End a run that has collapsed, before it overwrites healthy checkpoints."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxdino.core.options import check_range
from jaxdino.objectives.health import Health
from jaxdino.train.task import Metrics
from jaxdino.train.watch import Lost

if TYPE_CHECKING:
    from jaxdino.train.session import Session


def check(thresholds: Mapping[str, Any]) -> None:
    """Raise UserError for a setting of config.alarms that is out of range."""
    for name, value in thresholds.items():
        check_range(f"alarms.{name}", value, "[1, inf)" if name.startswith("patience") else "[0, inf)")


def judge(session: "Session", reading: Metrics, thresholds: Mapping[str, Any], **of_run: Any) -> None:
    """Judge a reading. While it looks bad nothing is saved, so that the checkpoints stay healthy.

    A run from random weights has at least until the end of the first stage's warm-up.

    Raises:
      Lost: for a collapse, with its kind, the figures, what to change, and where the last healthy weights are.
    """
    now, first = session.progress, session.setup.parts[0]
    waits = (first.stage.schedule.warmup_epochs, *(group.freeze_epochs for group in first.stage.groups.values()))
    settings = {name: value for name, value in thresholds.items() if name != "stop"}
    settings["grace_steps"] = max(settings["grace_steps"], int(max(waits) * first.steps_per_epoch))
    health = Health(**settings, **of_run)
    health.state = now.health or health.state
    numbers = {name.removeprefix("val/"): value for name, value in reading.items() if isinstance(value, float)}
    why = health.judge(now.step, numbers)
    now.health, session.healthy = health.state, health.healthy
    if why is None:
        return
    best, step = session.folder / "best", session.saved_step
    checkpoint = "no checkpoint was saved yet" if step is None else f"the last healthy checkpoint is step {step}"
    holds = "the last healthy teacher" if now.epochs else "the teacher that the stage began with: no epoch has ended"
    raise Lost(
        f"{why}\n  {checkpoint}; {best} holds {holds}. Continue from it in a new --workdir with "
        f"--config.model.weights={best} and other settings"
    )
