"""The train state: a plain dict of flat dicts, which sharding, checkpoints and the step all take as it is.

moving   changed by every step, donated to it:
  trainable  Flat, the leaves that the stage trains, float32
  buffers    Flat, what the forward pass keeps: batch statistics, RoPE periods
  opt        the optax state over `trainable`
  ema        Flat, the averaged leaves: those of `trainable`, and such as were trained before; {} without EMA
  step       int32 (), steps taken in this stage
  key        uint32, the stage's random key data; every draw folds the step into it
  scale      {"value" float32 (), "good" int32 (), "skipped" int32 ()}: the loss scale of float16
  teacher    of self-distillation alone: {"buffers": Flat, "centres": {head: (K,)}, "reference": Flat}
frozen   Flat, parameters that the stage leaves alone
best     {"trainable": Flat, "buffers": Flat}: the weights with the stage's best validation metric
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdino.core import sharding
from jaxdino.core.params import Flat, Skeleton
from jaxdino.strategy import Plan

State = dict[str, Any]
FIRST_SCALE = 2.0**15
GROWTH_INTERVAL = 2000  # good steps in a row that double the loss scale


def copy(tree: Any) -> Any:
    """The same arrays in other buffers, so that donating the one leaves the other alive."""
    return jax.tree.map(jnp.copy, tree)


def divide(flat: Mapping[str, jax.Array], skeleton: Skeleton, plan: Plan) -> tuple[Flat, Flat, Flat]:
    """All leaves of a model as (trainable, frozen, buffers)."""
    trainable = {path: flat[path] for path in plan.trainable}
    frozen = {path: flat[path] for path in skeleton.paths("param") if path not in trainable}
    buffers = {path: flat[path] for path in flat if skeleton.entries[path].kind != "param"}
    return trainable, frozen, buffers


def moving(trainable: Flat, buffers: Flat, opt: Any, key: jax.Array, ema: Flat, more: State) -> State:
    """The part of the state that steps change, at a stage's first step."""
    return {
        "trainable": trainable,
        "buffers": buffers,
        "opt": opt,
        "ema": ema,
        "step": jnp.zeros((), jnp.int32),
        "key": jax.random.key_data(key),
        "scale": {
            "value": jnp.full((), FIRST_SCALE, jnp.float32),
            "good": jnp.zeros((), jnp.int32),
            "skipped": jnp.zeros((), jnp.int32),
        },
        **more,
    }


def begin(
    flat: Flat,
    skeleton: Skeleton,
    plan: Plan,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh,
    rules: sharding.Rules = (),
    ema: Flat | None = None,
    more: State | None = None,
) -> State:
    """The state at the start of a stage, from all leaves of the model, sharded from the first moment.

    Args:
      flat: arrays on the mesh; copied where steps will donate them, as `ema` and `more` are.
      tx: its fresh state is made in place; what goes on from the stage before is carried over by the caller.
      seed: of the stage's random key.
      ema: the exponential moving average that steps go on with; None keeps none.
      more: what the task keeps in the moving part.
    """
    trainable, frozen, buffers = divide(flat, skeleton, plan)
    trainable, buffers, ema, more = copy((trainable, buffers, ema or {}, more or {}))
    where = sharding.shardings(jax.eval_shape(tx.init, trainable), mesh, rules)
    opt = jax.jit(tx.init, out_shardings=where)(trainable)
    parts = moving(trainable, buffers, opt, jax.random.key(seed), ema, more)
    small = {name: parts[name] for name in ("step", "key", "scale")}
    parts |= jax.device_put(small, sharding.replicated(mesh))
    return {"moving": parts, "frozen": frozen, "best": copy(evaluated(parts))}


def abstract(
    flat: Flat, skeleton: Skeleton, plan: Plan, tx: optax.GradientTransformation, ema: Flat, more: State
) -> State:
    """Shapes and dtypes of `begin`'s state, of those of its arguments: what a checkpoint is restored into."""
    trainable, frozen, buffers = divide(flat, skeleton, plan)
    opt = jax.eval_shape(tx.init, trainable)
    given = (trainable, buffers, opt)
    parts = jax.eval_shape(lambda *args: moving(*args[:3], jax.random.key(0), *args[3:]), *given, ema, more)
    return {"moving": parts, "frozen": frozen, "best": evaluated(parts)}


def evaluated(parts: State) -> State:
    """What validation measures: the average where there is one, with its own buffers where it has them."""
    return {"trainable": parts["ema"] or parts["trainable"], "buffers": parts.get("teacher", parts)["buffers"]}


def whole(weights: State, frozen: Flat) -> Flat:
    """All leaves of the model again, in one flat dict; an averaged leaf stands before one frozen meanwhile."""
    return frozen | weights["trainable"] | weights["buffers"]
