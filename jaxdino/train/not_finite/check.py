"""Check every step of a run for values that are not finite, and report the first such step (config.debug.nan)."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core import sharding
from jaxdino.core.command import program
from jaxdino.core.errors import UserError
from jaxdino.train import data, step
from jaxdino.train.not_finite import finding, folder
from jaxdino.train.state import State
from jaxdino.train.task import Part
from jaxdino.train.workdir import say

if TYPE_CHECKING:
    from jaxdino.train.session import Session

FINDING = "finding.txt"
FLAGS = "finite"
"""Entry of a step's measures: {"loss": whether it is finite, ...}."""
CHECKED = ("loss", "gradient", "parameters", "state")
"""What is checked, each before what follows from it."""
GONE = (
    "not found again: every value of the step is finite when it is taken anew. That program is compiled in another way "
    "and rounds otherwise: a value is close to overflow"
)


def checked(made: Callable, half: bool) -> Callable:
    """Return a step that also says what is finite, and leaves the state as it was if anything is not.

    Args:
      half: whether gradients may overflow, as in float16, where such a step is skipped.
    """

    def checking(moving: State, frozen: Any, batch: Any) -> tuple[State, dict[str, Any]]:
        new, measured = made(moving, frozen, batch)
        rest = {name: one for name, one in new.items() if name != "trainable"}
        flags = {
            "loss": jnp.isfinite(measured["loss"]),
            "gradient": jnp.isfinite(measured["grad_norm"]) | half,
            "parameters": _finite(new["trainable"]),
            "state": _finite(rest),
        }
        good = jnp.stack(list(flags.values())).all()
        return step.keep_if(good, new, moving), measured | {FLAGS: flags}

    return checking


def _finite(tree: Any) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves] or [jnp.array(True)]).all()


class Guard:
    """The check of the steps of one stage; does nothing unless config.debug.nan is set."""

    def __init__(self, session: "Session", part: Part, current: State):
        self.session, self.part, self.current = session, part, current
        self.on = bool(session.setup.config.debug.nan)

    def made(self) -> Callable:
        """Return the stage's step, not compiled."""
        setup = self.session.setup
        made = setup.task.train_step(self.part, self.current)
        return checked(made, setup.config.precision == "float16") if self.on else made

    def check(self, read: Mapping[str, np.ndarray], measured: dict[str, Any]) -> None:
        """Check a step that was taken; wait for it.

        Args:
          read: its batch, as read by this process.

        Raises:
          UserError: if a value was not finite; everything that is known of the step is saved first.
        """
        flags = measured.pop(FLAGS) if self.on else {}
        if bad := [name for name in CHECKED if self.on and not bool(flags[name])]:
            self._stop(read, bad)

    def _stop(self, read: Mapping[str, np.ndarray], bad: list[str]) -> NoReturn:
        session, now, task = self.session, self.session.progress, self.session.setup.task
        sent = data.sent(read, task.arrays)
        batch = sharding.put_batch(sent, session.setup.mesh)
        index = sharding.put_batch({"index": read["index"].astype(np.int32)}, session.setup.mesh)
        whole = sharding.gather({**batch, **index})
        state = {name: self.current[name] for name in ("moving", "frozen")}
        host, split = sharding.gather(state), task.source.split("train")
        images = [split.record_name(int(row)) for row in whole.pop("index")]
        about = folder.BadStep(now.step + 1, self.part.stage.name, now.stage_step + 1, self.part.seed, images, bad)
        place = session.folder / f"nan_step{about.step}"
        if session.chief:
            folder.save(place, about, session.setup.config, host, whole)
        lines = described(about, self._found(state, batch))
        if session.chief:
            (place / FINDING).write_text("\n".join([*lines, ""]))
        lines.append(f"saved in {place}; {program('replay')} {place} finds it again. The run saved nothing else of it")
        raise UserError("\n  ".join(lines))

    def _found(self, state: State, batch: Any) -> finding.Finding | str | None:
        if jax.process_count() > 1:
            return "the layer is found by the replay, since this run has several processes"
        say("a value is not finite: looking for the layer")
        made = self.session.setup.task.train_step(self.part, self.current)
        try:
            return finding.diagnose(made, **state, batch=batch, slices=self.part.stage.accumulate)
        except Exception as err:  # such as too little memory: what is saved is worth more than a traceback
            return f"the layer was not found ({type(err).__name__}: {' '.join(str(err).split())[:200]})"


def described(about: folder.BadStep, found: finding.Finding | str | None) -> list[str]:
    """Return the lines that describe a step and what was found in it."""
    first, *more = about.not_finite
    at = f"the {first} is not finite at step {about.step} (step {about.stage_step} of stage {about.stage!r})"
    at += f", and so {', '.join(more)}" if more else ""
    if found is None:
        return [at, GONE]
    return [at, found] if isinstance(found, str) else [at, *found.lines(about.images)]
