"""Schedules, the optimiser and its state across stages, against torch's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxdino import optim
from jaxdino.core.errors import UserError
from jaxdino.stage import Schedule, Stage
from jaxdino.strategy import resolve
from tests.test_strategy import fake_vit

GROUPS = dict(
    head=dict(lr=1e-2, weight_decay=0.1),
    body=dict(lr=3e-3, layer_decay=0.9, weight_decay=0.1),
    frozen=dict(frozen=True),
)
HEAD = (("@head", "head"), ("@all", "frozen"))
LAST = (("@head", "head"), ("@norm", "body"), ("@last", "body"), ("@all", "frozen"))
ALL = (("@head", "head"), ("@all", "body"))


def make_stage(rules, steps=10, **settings):
    used = {name: GROUPS[name] for name in dict.fromkeys(group for _, group in rules)}
    settings = dict(schedule=dict(name="constant")) | settings
    return Stage.of(dict(name="test", rules=rules, groups=used, steps=steps) | settings)


def torch_multipliers(make, steps):
    """The rates that a torch scheduler gives at each step, from a peak of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


SCHEDULERS = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        (Schedule("constant"), lambda o: SCHEDULERS.ConstantLR(o, factor=1.0)),
        (Schedule("cosine", final=0.1), lambda o: SCHEDULERS.CosineAnnealingLR(o, 40, eta_min=0.1)),
        (Schedule("step", period_epochs=3, factor=0.5), lambda o: SCHEDULERS.StepLR(o, 12, gamma=0.5)),
        (
            Schedule("cosine_restarts", period_epochs=2, period_mult=2, final=0.01),
            lambda o: SCHEDULERS.CosineAnnealingWarmRestarts(o, 8, T_mult=2, eta_min=0.01),
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_schedules_are_torchs(spec, reference):
    ours = optim.schedule(spec, total_steps=40, steps_per_epoch=4)
    np.testing.assert_allclose([ours(t) for t in range(40)], torch_multipliers(reference, 40), atol=1e-6)


@pytest.mark.parametrize("warmup", [dict(warmup_steps=8), dict(warmup_epochs=2.0)])
def test_warm_up_then_cosine_is_the_usual_lambda(warmup):
    def usual(t):
        return t / 8 if t < 8 else 0.5 * (1 + np.cos(np.pi * (t - 8) / 32))

    ours = optim.schedule(Schedule("cosine", **warmup), total_steps=40, steps_per_epoch=4)
    reference = torch_multipliers(lambda o: SCHEDULERS.LambdaLR(o, usual), 40)
    np.testing.assert_allclose([ours(t) for t in range(40)], reference, atol=1e-6)


def test_schedule_errors():
    with pytest.raises(UserError, match="unknown schedule 'cosin'; nearest: cosine"):
        optim.schedule(Schedule("cosin"), 10, 5)
    with pytest.raises(UserError, match="steps_per_epoch"):
        optim.schedule(Schedule("cosine", warmup_epochs=1.0), 10)
    with pytest.raises(UserError, match="period_epochs"):
        optim.schedule(Schedule("step", period_epochs=0.0), 10, 5)
    stage = make_stage(HEAD, optimizer=dict(name="adamm"))
    with pytest.raises(UserError, match="unknown optimizer 'adamm'; nearest: adamw"):
        optim.build(resolve(*fake_vit(), stage), stage, 10)


def numbers(seed):
    """An array for every parameter of the fake ViT."""
    rng = np.random.default_rng(seed)
    entries = fake_vit()[1].entries
    return {k: rng.normal(size=e.shape).astype("float32") for k, e in entries.items() if e.kind == "param"}


def run_jax(stage_list, steps=10):
    """All parameters after the stages, with the gradients `numbers(t)` at step t, and the last state."""
    params, plans, state, t = {k: jnp.asarray(v) for k, v in numbers(999).items()}, [], None, 0
    for stage in stage_list:
        plans.append(resolve(*fake_vit(), stage))
        train = {path: params[path] for path in plans[-1].trainable}
        tx = optim.build(plans[-1], stage, steps, optim.ages(plans))
        state = tx.init(train) if state is None else optim.carry(state, tx.init(train))

        @jax.jit
        def update(train, state, grads, tx=tx):
            updates, state = tx.update(grads, state, train)
            return jax.tree.map(jnp.add, train, updates), state

        for _ in range(steps):
            grads = {path: value for path, value in numbers(t).items() if path in train}
            train, state = update(train, state, grads)
            t += 1
        params |= train
    return params, state


def run_torch(stage_list, steps=10, make=torch.optim.AdamW):
    """The same with one torch optimiser, to which each stage adds the parameter groups that it unfreezes."""
    params = {k: torch.tensor(v, requires_grad=True) for k, v in numbers(999).items()}
    optimizer, known, t = None, set(), 0
    for stage in stage_list:
        plan = resolve(*fake_vit(), stage)
        course = optim.schedule(stage.schedule, steps)
        for path in set(plan.trainable) - known:
            leaf = plan.leaves[path]
            group = dict(params=[params[path]], lr=leaf.lr, weight_decay=leaf.weight_decay, peak=leaf.lr)
            if optimizer is None:
                optimizer = make([group])
            else:
                optimizer.add_param_group(group)
        known |= set(plan.trainable)
        for i in range(steps):
            grads = numbers(t)
            for path in known:
                params[path].grad = torch.tensor(grads[path])
            if stage.clip_norm:
                torch.nn.utils.clip_grad_norm_([params[path] for path in known], stage.clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * float(course(i))
            optimizer.step()
            t += 1
    return {path: value.detach().numpy() for path, value in params.items()}


def assert_same(ours, theirs):
    for path, value in theirs.items():
        np.testing.assert_allclose(ours[path], value, atol=1e-6, rtol=1e-6, err_msg=path)


SGD = dict(name="sgd", momentum=0.9, nesterov=True)


@pytest.mark.parametrize("rules", [(HEAD,), (ALL,), (HEAD, LAST, ALL)], ids=["head", "all", "gradual"])
def test_adamw_across_stages_is_torchs(rules):
    plan = [make_stage(r, schedule=dict(name="cosine", warmup_steps=2)) for r in rules]
    assert_same(run_jax(plan)[0], run_torch(plan))


def test_sgd_across_stages_is_torchs():
    def make(groups):
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)

    plan = [make_stage(rules, optimizer=SGD) for rules in (HEAD, ALL)]
    assert_same(run_jax(plan)[0], run_torch(plan, make=make))


def test_clipping_is_by_the_norm_of_the_trainable_leaves():
    plan = [make_stage(LAST, clip_norm=1.0, optimizer=SGD)]
    ours, theirs = (
        run_jax(plan)[0],
        run_torch(plan, make=lambda g: torch.optim.SGD(g, momentum=0.9, nesterov=True)),
    )
    assert_same(ours, theirs)
    loose = run_jax([make_stage(LAST, optimizer=SGD)])[0]
    assert not np.allclose(loose["head.kernel"], theirs["head.kernel"], atol=1e-3)


def moments(state):
    """{path: (mu, nu, count)} of an AdamW state."""
    found = {}
    for masked in state[1].inner_states.values():
        adam = masked.inner_state[0]
        for path in adam.mu:
            if isinstance(adam.mu[path], jax.Array):
                found[path] = (adam.mu[path], adam.nu[path], int(adam.count))
    return found


def test_moments_travel_leaf_by_leaf():
    two, one = (moments(run_jax([make_stage(ALL, n)] * k, n)[1]) for k, n in ((2, 10), (1, 20)))
    assert two.keys() == one.keys()
    for path in one:
        for ours, theirs in zip(two[path], one[path], strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=path)


def test_new_leaves_start_at_zero_and_dropped_leaves_leave():
    stage_list = [make_stage(LAST), make_stage(ALL), make_stage(HEAD)]
    plans = [resolve(*fake_vit(), stage) for stage in stage_list]
    old = run_jax(stage_list[:1])[1]
    assert optim.ages(plans[:2]) == {path: int(path in plans[0].trainable) for path in plans[1].trainable}
    assert optim.ages(plans) == dict.fromkeys(plans[2].trainable, 2)
    assert set(optim.ages([plans[0], plans[2], plans[1]]).values()) == {0, 2}

    tx = optim.build(plans[1], stage_list[1], 10, optim.ages(plans[:2]))
    state = optim.carry(old, tx.init({path: jnp.zeros_like(numbers(0)[path]) for path in plans[1].trainable}))
    before = moments(old)
    for path, (mu, nu, count) in moments(state).items():
        if path in before:
            assert (mu is before[path][0], nu is before[path][1], count) == (True, True, 10)
        else:
            assert (float(jnp.abs(mu).max()), float(jnp.abs(nu).max()), count) == (0.0, 0.0, 0)

    tx = optim.build(plans[2], stage_list[2], 10, optim.ages(plans))
    state = optim.carry(state, tx.init({path: jnp.zeros_like(numbers(0)[path]) for path in plans[2].trainable}))
    assert set(moments(state)) == {"head.kernel", "head.bias"}


def test_carry_without_ages_is_refused():
    old = run_jax([make_stage(HEAD)])[1]
    both = dict(body=dict(lr=1e-2, weight_decay=0.1))
    stage = Stage.of(dict(name="all", rules=(("@all", "body"),), groups=both, steps=10))
    plan = resolve(*fake_vit(), stage)
    tx = optim.build(plan, stage, 10)
    with pytest.raises(ValueError, match="build it with ages"):
        optim.carry(old, tx.init({path: jnp.asarray(numbers(0)[path]) for path in plan.trainable}))


def test_another_update_rule_starts_anew():
    _, state = run_jax([make_stage(HEAD), make_stage(HEAD, optimizer=SGD)])
    fresh = run_jax([make_stage(HEAD, optimizer=SGD)])[1]
    assert jax.tree.structure(state[1].inner_states["lr=0.01,wd=0.1,age=1"]) == jax.tree.structure(
        fresh[1].inner_states["lr=0.01,wd=0.1,age=0"]
    )


def test_state_paths_hold_the_parameter_paths():
    stage = make_stage(ALL)
    plan = resolve(*fake_vit(), stage)
    train = {path: jnp.asarray(numbers(0)[path]) for path in plan.trainable}
    state = jax.eval_shape(optim.build(plan, stage, 10).init, train)
    last = [(path[-1], leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state) if leaf.ndim]
    assert {key.key for key, _ in last} == set(plan.trainable) and len(last) == 2 * len(plan.trainable)


def test_the_state_can_be_donated():
    stage = make_stage(ALL)
    plan = resolve(*fake_vit(), stage)
    train = {path: jnp.asarray(numbers(0)[path]) for path in plan.trainable}
    tx = optim.build(plan, stage, 10, optim.ages([plan, plan]))
    state = optim.carry(optim.build(plan, stage, 10).init(train), tx.init(train))
    _, state = jax.jit(tx.update, donate_argnums=1)(train, state, train)
    assert moments(state)["head.kernel"][2] == 1


def test_learning_rates_are_each_groups_highest():
    stage = make_stage(LAST, steps=None, epochs=5, schedule=dict(name="cosine", warmup_epochs=1.0))
    rates = optim.learning_rates(resolve(*fake_vit(), stage), stage, total_steps=20)
    assert rates(0) == {"head": 0.0, "body": 0.0}
    assert rates(4) == pytest.approx({"head": 1e-2, "body": 3e-3})
    assert rates(2) == pytest.approx({"head": 5e-3, "body": 1.5e-3})
