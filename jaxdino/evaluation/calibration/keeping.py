"""Keep a calibration with the best model of a run, where predict, export and whatever loads it find it."""

from pathlib import Path

from convert.card import load_card
from convert.store import write_card
from jaxdino.core.errors import UserError
from jaxdino.evaluation.calibration.fitting import FITS, doubt, fitted, flat
from jaxdino.evaluation.context import Context
from jaxdino.models.heads.calibration import Calibration
from jaxdino.train.run_lock import RunLock

NONE = "none"
CHOICES = (*FITS, NONE)


def keep(context: Context, method: str) -> Context:
    """Fit a calibration on the run's validation images and write it into the card of best/; "none" removes it.

    Return the context of the calibrated model.

    Raises:
      UserError: if the run is being trained on, or its folder cannot be written; for a temperature without end.
    """
    own = context.validation
    if method != NONE and (why := doubt(own.logits, own.labels)):
        context.say(f"WARNING: --calibrate {method}: {why}")
    made = None if method == NONE else fitted(method, own.logits, own.labels)
    if made is not None and (why := flat(made)):
        raise UserError(f"--calibrate {method}: {why}; train longer, or give the run more validation images")
    _write(context.run.folder, made, context)
    place = context.run.folder / "best"
    if made is None:
        context.say(f"no calibration is kept any more with the model in {place}")
    else:
        context.say(
            f"the calibration {described(made)} is kept with the model in {place}, fitted on {len(own)} images of val"
        )
    return context.calibrated(made)


def _write(folder: Path, made: Calibration | None, context: Context) -> None:
    lock = RunLock(folder, context.say)
    lock.hold()
    try:
        card = load_card(folder / "best")
        write_card(folder / "best", card.calibrated(made))
    finally:
        lock.release()


def described(made: Calibration) -> str:
    """Return the calibration in words; the temperature with its value."""
    return f"temperature (T = {1 / made.scale[0]:.3f})" if made.method == "temperature" else made.method
