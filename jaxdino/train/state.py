"""The train state: a plain dict of flat dicts, used directly by sharding, checkpoints and the train step.

moving   changed by every step, and donated to it:
  trainable  Flat, the leaves that the stage trains, float32
  buffers    Flat, non-parameter leaves: batch statistics, RoPE periods
  opt        the optax state over `trainable`
  ema        Flat, the averaged leaves: those of `trainable`, and those trained in earlier stages; {} without EMA
  step       int32 (), steps taken in this stage
  key        uint32, the stage's random key data; each step folds `step` into it
  scale      {"value" float32 (), "good" int32 (), "skipped" int32 ()}: the loss scale of float16
  teacher    only in self-distillation: {"buffers": Flat, "centres": {head: (K,)}, "reference": Flat}
frozen   Flat, parameters that the stage does not train
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
GROWTH_INTERVAL = 2000  # number of good steps in a row after which the loss scale doubles


def copy(tree: Any) -> Any:
    """Copy all arrays to new buffers, so that donating one tree keeps the other valid."""
    return jax.tree.map(jnp.copy, tree)


def divide(flat: Mapping[str, jax.Array], skeleton: Skeleton, plan: Plan) -> tuple[Flat, Flat, Flat]:
    """Split all leaves of a model into (trainable, frozen, buffers)."""
    trainable = {path: flat[path] for path in plan.trainable}
    frozen = {path: flat[path] for path in skeleton.paths("param") if path not in trainable}
    buffers = {path: flat[path] for path in flat if skeleton.entries[path].kind != "param"}
    return trainable, frozen, buffers


def moving(trainable: Flat, buffers: Flat, opt: Any, key: jax.Array, ema: Flat, more: State) -> State:
    """Make the part of the state that steps change, at a stage's first step."""
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
    """Make the state at the start of a stage from all leaves of the model. The state is created sharded.

    Args:
      flat: arrays on the mesh; leaves that steps donate are copied, as are `ema` and `more`.
      tx: the optimiser; its state is new. The caller carries over the state of the previous stage.
      seed: seed of the stage's random key.
      ema: the exponential moving average to continue; None disables it.
      more: additional entries of the moving part, from the task.
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
    """Return the shapes and dtypes of the state that `begin` makes, to restore a checkpoint into."""
    trainable, frozen, buffers = divide(flat, skeleton, plan)
    opt = jax.eval_shape(tx.init, trainable)
    given = (trainable, buffers, opt)
    parts = jax.eval_shape(lambda *args: moving(*args[:3], jax.random.key(0), *args[3:]), *given, ema, more)
    return {"moving": parts, "frozen": frozen, "best": evaluated(parts)}


def evaluated(parts: State) -> State:
    """Return the weights to validate: the average if there is one, with its own buffers if it has them."""
    return {"trainable": parts["ema"] or parts["trainable"], "buffers": parts.get("teacher", parts)["buffers"]}


def whole(weights: State, frozen: Flat) -> Flat:
    """Merge all leaves of the model into one flat dict; averaged leaves take precedence over frozen ones."""
    return frozen | weights["trainable"] | weights["buffers"]
