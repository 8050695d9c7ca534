"""What ends a run that has collapsed, before it overwrites what was healthy."""

from typing import Any

from jaxdino.objectives.health import Health
from jaxdino.train.task import Metrics
from jaxdino.train.watch import Lost


def judge(session: Any, reading: Metrics, thresholds: Metrics, **of_run: Any) -> None:
    """Judges a reading; while it looks bad nothing is saved, so that the checkpoints stay healthy ones.

    Raises:
      Lost: for a collapse, with its kind, the figures, what to change, and where the last healthy weights are.
    """
    now = session.progress
    health = Health(**thresholds, **of_run)
    health.state = now.health or health.state
    numbers = {name: value for name, value in reading.items() if isinstance(value, float)}
    why = health.judge(now.step, numbers)
    now.health, session.healthy = health.state, health.healthy
    if why is None:
        return
    step = session.saved_step
    checkpoint = "no checkpoint was saved yet" if step is None else f"the last healthy checkpoint is step {step}"
    raise Lost(
        f"{why}\n  {checkpoint}; the last healthy teacher is in {session.folder / 'best'}. Go on from it in a new "
        f"--workdir with --config.model.weights={session.folder / 'best'} and other settings"
    )
