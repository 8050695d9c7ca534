"""The state at a stage's start: the weights of the run, or what the previous stage hands on."""

from typing import Any

import jax

from jaxdino import optim
from jaxdino.core import sharding
from jaxdino.models.lora import leaves
from jaxdino.train import state
from jaxdino.train.setup import Setup
from jaxdino.train.task import Part


def shapes(setup: Setup, part: Part) -> state.State:
    """Return the shapes and dtypes of a stage's state, without shardings."""
    flat = part.skeleton.shapes
    ema, more = {path: flat[path] for path in part.averaged}, jax.eval_shape(setup.task.more, flat)
    return state.abstract(flat, part.skeleton, part.plan, part.tx, ema, more)


def begin_stage(setup: Setup, part: Part, before: state.State | None) -> state.State:
    """Return the state at a stage's start, on the devices.

    Args:
      before: the state at the end of the previous stage; None for the first stage of the run.
    """

    def where(tree: Any) -> Any:
        return sharding.shardings(tree, setup.mesh, setup.rules)

    task, last = setup.task, None if before is None else setup.parts[part.index - 1]
    if before is None:
        flat, task.flat = task.flat, {}  # which would be a second copy on the devices
        ema, more = {}, task.more(flat)
    else:
        flat, ema, more = task.carried(last, before)
    averaged = task.put_on(part, flat | ema, last)
    flat = task.put_on(part, flat, last)
    ema = {path: averaged[path] for path in part.averaged}
    flat, ema, more = (jax.device_put(tree, where(tree)) for tree in (flat, ema, more))
    how = dict(seed=part.seed, ema=ema, more=more, mesh=setup.mesh, rules=setup.rules)
    begun = state.begin(flat, part.skeleton, part.plan, part.tx, **how)
    if before is not None:
        carried = optim.carry(before["moving"]["opt"], begun["moving"]["opt"], leaves(part.plan.trainable))
        begun["moving"]["opt"] = jax.device_put(carried, where(carried))
    return begun
