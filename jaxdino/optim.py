"""The optimiser of a stage: schedules, one `optax.multi_transform`, and its state across stages.

The only room that sees optax. It works on flat dicts {path: array} of the trainable leaves, and its state
holds flat dicts under the same paths, so that sharding rules and checkpoints address both alike.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

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
    """The cosine anew in each period, each `period_mult` times as long as the last: SGDR (arXiv:1608.03983)
    and torch's CosineAnnealingWarmRestarts."""
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
        raise UserError(f"{epochs:g} epochs of a schedule cannot be told in steps: give steps_per_epoch")
    return round(epochs * epoch)


def schedule(spec: Schedule, total_steps: int, steps_per_epoch: float | None = None) -> optax.Schedule:
    """The multiplier of the peak rate at each step of a stage: linear warm-up, then the named course.

    m(t) = t / W for t < W, with W the warm-up in steps; from there the course, over the steps that are left.
    transformers' get_cosine_schedule_with_warmup is the same (a torch LambdaLR).

    Raises:
      UserError: for an unknown name, a period of no length, epochs without `steps_per_epoch`.
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
    """torch.optim.AdamW: bias-corrected moments, decay decoupled from them (arXiv:1711.05101)."""
    moments = optax.scale_by_adam(*spec.betas, eps=spec.eps)
    return optax.chain(moments, _decay(weight_decay), optax.scale_by_learning_rate(rate))


def sgd(spec: Optimizer, rate: optax.Schedule, weight_decay: Decay) -> optax.GradientTransformation:
    """torch.optim.SGD: decay is part of the gradient, momentum without dampening."""
    moments = optax.trace(spec.momentum, nesterov=spec.nesterov)
    return optax.chain(_decay(weight_decay), moments, optax.scale_by_learning_rate(rate))


OPTIMIZERS = {"adamw": adamw, "sgd": sgd}


def _decay(weight_decay: Decay) -> optax.GradientTransformation:
    return optax.add_decayed_weights(weight_decay) if weight_decay else optax.identity()


def build(
    plan: Plan,
    stage: Stage,
    total_steps: int,
    ages: Mapping[str, int] | None = None,
    steps_per_epoch: float | None = None,
) -> optax.GradientTransformation:
    """The optimiser of a stage, over the flat dict of its trainable leaves and nothing else.

    Leaves of equal peak rate, weight decay and age share one inner optimiser, under the label
    "lr=...,wd=...,age=...". Age keeps the step counts of old and new leaves apart, for bias correction.
    Gradients are clipped before: by the global norm over the trainable leaves, or each by its own.

    Args:
      plan: the stage, resolved.
      stage: gives the optimiser, the schedule and `clip_norm`.
      total_steps: the stage's length, in optimiser steps.
      ages: `ages(plans)`; None in a first stage, where all leaves are new.
      steps_per_epoch: for lengths given in epochs; by default total_steps / stage.epochs.

    Raises:
      UserError: for an unknown optimiser or schedule.
    """
    spec = stage.optimizer
    if spec.name not in OPTIMIZERS:
        raise UserError(f"unknown optimizer {spec.name!r}; {did_you_mean(spec.name, OPTIMIZERS)}")
    if stage.clip_by not in CLIPS:
        raise UserError(f"unknown clip_by {stage.clip_by!r}; {did_you_mean(stage.clip_by, CLIPS)}")
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
    """What the leaves of one inner optimiser have in common."""
    label = f"lr={leaf.lr!r},wd={leaf.weight_decay!r},age={age}"
    label += f",wd_end={leaf.weight_decay_end!r}" if leaf.weight_decay_end is not None else ""
    return label + (f",freeze={leaf.freeze_epochs!r}" if leaf.freeze_epochs else "")


def clip_by_parameter_norm(limit: float) -> optax.GradientTransformation:
    """Each gradient g times min(1, limit / (|g| + 1e-6)). Source: facebookresearch/dino utils.py clip_gradients."""

    def one(grad: jax.Array) -> jax.Array:
        return grad * jnp.minimum(1.0, limit / (jnp.linalg.norm(grad.astype(jnp.float32).reshape(-1)) + 1e-6))

    return optax.stateless(lambda grads, _: jax.tree.map(one, grads))


CLIPS = {"global": optax.clip_by_global_norm, "parameter": clip_by_parameter_norm}


def cosine_between(start: float, end: float, steps: int) -> optax.Schedule:
    """end + (start - end) (1 + cos(pi t / steps)) / 2: the course of DINO's weight decay and teacher momentum.

    Source: facebookresearch/dino utils.py cosine_scheduler.
    """

    def course(count: jax.Array) -> jax.Array:
        return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(count, steps) / max(steps, 1)))

    return course


def linear_between(start: float, end: float, steps: float) -> optax.Schedule:
    """From `start` to `end` linearly over `steps`, reached with the last of them; then `end`."""
    return lambda count: start + (end - start) * jnp.minimum((count + 1) / max(steps, 1.0), 1.0)


def _decay_course(leaf: LeafPlan, steps: int) -> Decay:
    if leaf.weight_decay_end is None:
        return leaf.weight_decay
    return cosine_between(leaf.weight_decay, leaf.weight_decay_end, steps)


def _rate(course: optax.Schedule, leaf: LeafPlan, steps_per_epoch: float | None) -> optax.Schedule:
    """A leaf's rate at each step: its peak times the course, and 0 while it is frozen."""
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
    """A function from the stage's step to {group: its rate}; with layer decay, that of its topmost layer."""
    steps_per_epoch = _steps_per_epoch(stage, total_steps, steps_per_epoch)
    course = schedule(stage.schedule, total_steps, steps_per_epoch)
    tops: dict[str, LeafPlan] = {}
    for path in plan.trainable:
        leaf = plan.leaves[path]
        tops[leaf.group] = max(leaf, tops.get(leaf.group, leaf), key=lambda one: one.lr)
    rates = {group: _rate(course, leaf, steps_per_epoch) for group, leaf in tops.items()}
    return lambda count: {group: float(rate(count)) for group, rate in rates.items()}


def ages(plans: Sequence[Plan], anew: Collection[str] = ()) -> dict[str, int]:
    """{path: in how many stages before the last of `plans` the leaf was trained without a break}.

    It follows from the plans alone, so that a resumed run builds the same optimiser as the first one did.

    Args:
      plans: of all stages so far, in order, the present one last.
      anew: paths that start anew in the present one, though an earlier one had such (adapters, merged meanwhile).
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
    """The state a stage starts from: `new = tx.init(params)`, with what `old` holds of the leaves that go on.

    Moments and counts travel, new leaves keep their zeros, leaves that have left are dropped, and the schedule
    starts anew. So does a leaf that was frozen in between, and everything under another update rule. The
    moments are handed over, not copied: `old` is spent once a step has donated the result. What is `anew` (see `ages`)
    takes over nothing.

    Raises:
      ValueError: when leaves of different counts share a label (`build` was not given the `ages`).
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
    """(position in its chain, state) of every inner state of every label."""
    return [pair for masked in state[1].inner_states.values() for pair in enumerate(masked.inner_state)]


def _slots(part: Any) -> dict[str, dict[str, jax.Array]]:
    """{name: {path: moment}} of an inner state: Adam's mu and nu, momentum's trace, none of a schedule."""
    return {
        name: {path: value for path, value in moments.items() if not isinstance(value, optax.MaskedNode)}
        for name, moments in part._asdict().items()
        if isinstance(moments, dict)
    }


def _taken_over(position: int, part: Any, known: Mapping[tuple, Any]) -> Any:
    """A new inner state with the known moments and count of its leaves."""
    fields: dict[str, Any] = {}
    for slot, moments in _slots(part).items():
        found = {path: known.get((position, slot, path), value) for path, value in moments.items()}
        fields[slot] = getattr(part, slot) | found
        counts = {int(known.get((position, "count", path), 0)) for path in moments}
        if len(counts) > 1:
            raise ValueError(f"leaves of different step counts {counts} share an optimiser: build it with ages")
        if "count" in part._fields:
            fields["count"] = part.count + counts.pop()
    return part._replace(**fields)
