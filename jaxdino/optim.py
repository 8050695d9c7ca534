"""The optimiser of a stage: schedules, one `optax.multi_transform`, and its state across stages.

Only this module uses optax. It works on flat dicts {path: array} of the trainable leaves, and its state holds flat
dicts with the same paths, so that sharding rules and checkpoints address both in the same way.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdino.adam import scale_by_adam_bfloat16
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.stage import Optimizer, Schedule, Stage
from jaxdino.strategy import LeafPlan, Plan

State = Any  # an optax state: a pytree whose moments are flat dicts {path: array}


def constant(spec: Schedule, steps: int, epoch: float | None) -> optax.Schedule:
    """m(t) = 1."""
    return optax.constant_schedule(1.0)


def cosine(spec: Schedule, steps: int, epoch: float | None) -> optax.Schedule:
    """m(t) = final + (1 - final) (1 + cos(pi t / steps)) / 2: torch's CosineAnnealingLR."""
    return optax.cosine_decay_schedule(1.0, max(steps, 1), alpha=spec.final)


def step(spec: Schedule, steps: int, epoch: float | None) -> optax.Schedule:
    """m(t) = factor ** floor(t / period): torch's StepLR."""
    return optax.exponential_decay(1.0, _period(spec, epoch), spec.factor, staircase=True)


def cosine_restarts(spec: Schedule, steps: int, epoch: float | None) -> optax.Schedule:
    """The cosine, restarted in each period; each period is `period_mult` times as long as the last: SGDR
    (arXiv:1608.03983) and torch's CosineAnnealingWarmRestarts."""
    length, start, parts, starts = _period(spec, epoch), 0, [], []
    while not parts or start < steps:
        parts.append(cosine(spec, length, epoch))
        start, length = start + length, length * spec.period_mult
        starts.append(start)
    return optax.join_schedules(parts, starts[:-1])


SCHEDULES = {"constant": constant, "cosine": cosine, "step": step, "cosine_restarts": cosine_restarts}


def _period(spec: Schedule, epoch: float | None) -> int:
    length = _steps(spec.period_epochs, epoch)
    if length < 1:
        raise UserError(f"schedule {spec.name!r}: period_epochs={spec.period_epochs} is shorter than one step")
    return length


def _steps(epochs: float | None, epoch: float | None) -> int:
    if not epochs:
        return 0
    if epoch is None:
        raise UserError(f"a schedule has a length of {epochs:g} epochs: give steps_per_epoch to convert it to steps")
    return round(epochs * epoch)


def schedule(spec: Schedule, total_steps: int, steps_per_epoch: float | None = None) -> optax.Schedule:
    """Return the multiplier of the peak rate at each step of a stage: linear warm-up, then the named schedule.

    m(t) = t / W for t < W, with W the warm-up in steps; after that the schedule, over the remaining steps.
    transformers' get_cosine_schedule_with_warmup is the same (a torch LambdaLR).

    Raises:
      UserError: for an unknown name, a period without length, or epochs without `steps_per_epoch`.
    """
    if spec.name not in SCHEDULES:
        raise UserError(f"unknown schedule {spec.name!r}; {did_you_mean(spec.name, SCHEDULES)}")
    warmup = spec.warmup_steps or _steps(spec.warmup_epochs, steps_per_epoch)
    course = SCHEDULES[spec.name](spec, total_steps - warmup, steps_per_epoch)
    if not warmup:
        return course
    return optax.join_schedules([optax.linear_schedule(0.0, 1.0, warmup), course], [warmup])


Decay = float | optax.Schedule


def adamw(spec: Optimizer, rate: optax.Schedule, weight_decay: Decay) -> optax.GradientTransformation:
    """torch.optim.AdamW: bias-corrected moments, decoupled weight decay (arXiv:1711.05101)."""
    moments = MOMENTS[spec.moments](*spec.betas, eps=spec.eps)
    return optax.chain(moments, _decay(weight_decay), optax.scale_by_learning_rate(rate))


def sgd(spec: Optimizer, rate: optax.Schedule, weight_decay: Decay) -> optax.GradientTransformation:
    """torch.optim.SGD: weight decay is part of the gradient, momentum without dampening."""
    moments = optax.trace(spec.momentum, nesterov=spec.nesterov)
    return optax.chain(_decay(weight_decay), moments, optax.scale_by_learning_rate(rate))


MOMENTS = {"float32": optax.scale_by_adam, "bfloat16": scale_by_adam_bfloat16}
OPTIMIZERS = {"adamw": adamw, "sgd": sgd}


def _decay(weight_decay: Decay) -> optax.GradientTransformation:
    return optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()


def check_names(stage: Stage) -> None:
    """Raise UserError for an unknown optimiser, type of its moments, way of clipping or schedule."""
    chosen = {
        "optimizer": (stage.optimizer.name, OPTIMIZERS),
        "optimizer.moments": (stage.optimizer.moments, MOMENTS),
        "clip_by": (stage.clip_by, CLIPS),
        "schedule": (stage.schedule.name, SCHEDULES),
    }
    for what, (name, known) in chosen.items():
        if name not in known:
            raise UserError(f"unknown {what} {name!r}; {did_you_mean(name, known)}")


def build(
    plan: Plan,
    stage: Stage,
    total_steps: int,
    ages: Mapping[str, int] | None = None,
    steps_per_epoch: float | None = None,
) -> optax.GradientTransformation:
    """Build the optimiser of a stage, over the flat dict of its trainable leaves only.

    Leaves with the same peak rate, weight decay and age share one inner optimiser, with the label
    "lr=...,wd=...,age=...". The age keeps the step counts of old and new leaves separate, for bias correction.
    Gradients are clipped first: by the global norm over the trainable leaves, or each by its own norm.

    Args:
      plan: the resolved stage.
      stage: its optimiser, schedule and `clip_norm` are used.
      total_steps: length of the stage in optimiser steps.
      ages: `ages(plans)`; None in a first stage, where all leaves are new.
      steps_per_epoch: to convert lengths in epochs; by default total_steps / stage.epochs.

    Raises:
      UserError: for an unknown optimiser or schedule.
    """
    check_names(stage)
    spec = stage.optimizer
    steps_per_epoch = _steps_per_epoch(stage, total_steps, steps_per_epoch)
    course = schedule(stage.schedule, total_steps, steps_per_epoch)
    labels, parts = {}, {}
    for path in plan.trainable:
        leaf, age = plan.leaves[path], (ages or {}).get(path, 0)
        labels[path] = _label(leaf, age)
        if labels[path] not in parts:
            rate = _rate(course, leaf, steps_per_epoch)
            parts[labels[path]] = OPTIMIZERS[spec.name](spec, rate, _decay_course(leaf, total_steps))
    clip = CLIPS[stage.clip_by](stage.clip_norm) if stage.clip_norm else optax.identity()
    return optax.chain(clip, optax.multi_transform(parts, labels))


def _label(leaf: LeafPlan, age: int) -> str:
    """Return the label that the leaves of one inner optimiser share."""
    label = f"lr={leaf.lr!r},wd={leaf.weight_decay!r},age={age}"
    label += f",wd_end={leaf.weight_decay_end!r}" if leaf.weight_decay_end is not None else ""
    return label + (f",freeze={leaf.freeze_epochs!r}" if leaf.freeze_epochs else "")


def clip_by_parameter_norm(limit: float) -> optax.GradientTransformation:
    """Scale each gradient g by min(1, limit / (|g| + 1e-6)). Source: facebookresearch/dino utils.py clip_gradients."""

    def one(grad: jax.Array) -> jax.Array:
        return grad * jnp.minimum(1.0, limit / (jnp.linalg.norm(grad.astype(jnp.float32).reshape(-1)) + 1e-6))

    return optax.stateless(lambda grads, _: jax.tree.map(one, grads))


CLIPS = {"global": optax.clip_by_global_norm, "parameter": clip_by_parameter_norm}


def cosine_between(start: float, end: float, steps: int) -> optax.Schedule:
    """end + (start - end) (1 + cos(pi t / steps)) / 2: the schedule of DINO's weight decay and teacher momentum.

    Source: facebookresearch/dino utils.py cosine_scheduler.
    """

    def course(count: jax.Array) -> jax.Array:
        return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count, steps) / max(steps, 1)))

    return course


def linear_between(start: float, end: float, steps: float) -> optax.Schedule:
    """Interpolate linearly from `start` to `end`, which is reached at the last of `steps`; then `end`."""
    return lambda count: start + (end - start) * jnp.minimum((count + 1) / max(steps, 1.0), 1.0)


def _decay_course(leaf: LeafPlan, steps: int) -> Decay:
    if leaf.weight_decay_end is None:
        return leaf.weight_decay
    return cosine_between(leaf.weight_decay, leaf.weight_decay_end, steps)


def _rate(course: optax.Schedule, leaf: LeafPlan, steps_per_epoch: float | None) -> optax.Schedule:
    """Return a leaf's rate at each step: its peak times the schedule, and 0 while it is frozen."""
    frozen = _steps(leaf.freeze_epochs, steps_per_epoch)
    if not frozen:
        return lambda count: leaf.lr * course(count)
    return lambda count: jnp.where(count < frozen, 0.0, leaf.lr * course(count))


def _steps_per_epoch(stage: Stage, total_steps: int, steps_per_epoch: float | None) -> float | None:
    if steps_per_epoch is None and stage.epochs and stage.steps is None:
        return total_steps / stage.epochs
    return steps_per_epoch


def learning_rates(
    plan: Plan, stage: Stage, total_steps: int, steps_per_epoch: float | None = None
) -> Callable[[int], dict[str, float]]:
    """Return a function from the stage's step to {group: its rate}; with layer decay, the rate of its topmost layer."""
    steps_per_epoch = _steps_per_epoch(stage, total_steps, steps_per_epoch)
    course = schedule(stage.schedule, total_steps, steps_per_epoch)
    tops: dict[str, LeafPlan] = {}
    for path in plan.trainable:
        leaf = plan.leaves[path]
        tops[leaf.group] = max(leaf, tops.get(leaf.group, leaf), key=lambda one: one.lr)
    rates = {group: _rate(course, leaf, steps_per_epoch) for group, leaf in tops.items()}
    return lambda count: {group: float(rate(count)) for group, rate in rates.items()}


def ages(plans: Sequence[Plan], anew: Collection[str] = ()) -> dict[str, int]:
    """Return {path: number of stages just before the last of `plans` in which the leaf was trained without a break}.

    It depends only on the plans, so that a resumed run builds the same optimiser.

    Args:
      plans: plans of all stages so far, in order; the current stage is the last.
      anew: paths that restart in the current stage even if an earlier stage trained them (adapters merged in between).
    """
    *before, now = plans
    found = dict.fromkeys(now.trainable, 0)
    going_on = set(now.trainable) - set(anew)
    for plan in reversed(before):
        going_on &= set(plan.trainable)
        for path in going_on:
            found[path] += 1
    return found


def carry(old: State, new: State, anew: Collection[str] = ()) -> State:
    """Return the optimiser state of a new stage: `new = tx.init(params)`, with the state in `old` of continued leaves.

    Moments and counts are kept for leaves that continue; new leaves keep their zeros, leaves no longer trained are
    dropped, and the schedule restarts. A leaf that was frozen in between also restarts, and so does everything if the
    update rule changes. The moments are not copied: `old` is invalid once a step has donated the result. Leaves in
    `anew` (see `ages`) restart.

    Raises:
      ValueError: if leaves with different counts share a label (`build` was not given the `ages`).
    """
    known = {}
    for position, part in _parts(old):
        for slot, moments in _slots(part).items():
            for path, value in moments.items():
                if path in anew:
                    continue
                known[position, slot, path] = value
                known[position, "count", path] = part.count if "count" in part._fields else 0
    clip, split = new
    inner = {
        label: masked._replace(
            inner_state=tuple(_taken_over(i, part, known) for i, part in enumerate(masked.inner_state))
        )
        for label, masked in split.inner_states.items()
    }
    return clip, split._replace(inner_states=inner)


def _parts(state: State) -> list[tuple[int, Any]]:
    """Return (position in its chain, state) of every inner state of every label."""
    return [pair for masked in state[1].inner_states.values() for pair in enumerate(masked.inner_state)]


def _slots(part: Any) -> dict[str, dict[str, jax.Array]]:
    """Return {name: {path: moment}} of an inner state: Adam's mu and nu, momentum's trace; {} for a schedule."""
    return {
        name: {path: value for path, value in moments.items() if not isinstance(value, optax.MaskedNode)}
        for name, moments in part._asdict().items()
        if isinstance(moments, dict)
    }


def _taken_over(position: int, part: Any, known: Mapping[tuple, Any]) -> Any:
    """Return a new inner state with the known moments and count of its leaves."""
    fields: dict[str, Any] = {}
    for slot, moments in _slots(part).items():
        found = {path: known.get((position, slot, path), value) for path, value in moments.items()}
        found = {path: value.astype(moments[path].dtype) for path, value in found.items()}  # another `moments`
        fields[slot] = getattr(part, slot) | found
        counts = {int(known.get((position, "count", path), 0)) for path in moments}
        if len(counts) > 1:
            raise ValueError(f"leaves of different step counts {counts} share an optimiser: build it with ages")
        if "count" in part._fields:
            fields["count"] = part.count + counts.pop()
    return part._replace(**fields)
