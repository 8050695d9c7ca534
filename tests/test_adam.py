"""Moments in bfloat16: rounding without bias, a second moment that keeps moving, updates near Adam's, a new stage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdino import optim
from jaxdino.adam import rounded, scale_by_adam_bfloat16
from jaxdino.core.errors import UserError
from jaxdino.strategy import resolve
from tests.test_optim import ALL, HEAD, make_stage
from tests.test_strategy import fake_vit

BETAS = (0.9, 0.999)


def test_rounding_gives_the_two_neighbours_with_the_right_mean():
    low, high = 1.0, 1.0078125  # bfloat16 has 8 bits
    x = np.float32(low + 0.3 * (high - low))
    found = np.asarray(rounded(jax.random.key(0), jnp.full(40_000, x))).astype(np.float32)
    assert set(np.unique(found)) == {np.float32(low), np.float32(high)}
    assert np.mean(found == high) == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 40_000))


def test_values_that_bfloat16_holds_stay():
    held = jnp.array([0.0, 1.0, -2.5, 3e-30], jnp.bfloat16)
    assert (rounded(jax.random.key(1), held.astype(jnp.float32)) == held).all()


def test_the_second_moment_follows_small_changes():
    """Gradients fall to a tenth; 2,000 steps later float32's second moment has almost followed."""
    grads = {"w": jnp.full(512, 0.1)}
    ours, exact = scale_by_adam_bfloat16(*BETAS, eps=1e-8), optax.scale_by_adam(*BETAS)
    states = [ours.init(grads), exact.init(grads)]
    start = {"w": jnp.ones(512)}
    states = [
        state._replace(nu=jax.tree.map(lambda x, like: x.astype(like.dtype), start, state.nu)) for state in states
    ]

    @jax.jit
    def many(states):
        def one(_, states):
            return [tx.update(grads, state)[1] for tx, state in zip((ours, exact), states, strict=True)]

        return jax.lax.fori_loop(0, 2000, one, states)

    found, wanted = (np.asarray(state.nu["w"], np.float32) for state in many(states))
    assert wanted[0] < 0.2  # from 1
    assert found.mean() == pytest.approx(wanted.mean(), rel=0.02)


def test_updates_are_near_adams_and_half_the_memory():
    rng = np.random.default_rng(0)
    grads = [{"w": jnp.asarray(rng.standard_normal((64, 32)), jnp.float32)} for _ in range(20)]
    found = []
    for tx in (scale_by_adam_bfloat16(*BETAS, eps=1e-8), optax.scale_by_adam(*BETAS)):
        state = tx.init(grads[0])
        for grad in grads:
            update, state = tx.update(grad, state)
        found.append((np.asarray(update["w"]), sum(x.nbytes for x in jax.tree.leaves((state.mu, state.nu)))))
    (ours, small), (wanted, large) = found
    assert 2 * small == large
    assert np.abs(ours - wanted).max() < 0.02 * np.abs(wanted).max()


def test_a_later_stage_may_store_them_otherwise():
    spec, skeleton = fake_vit()
    stages = make_stage(HEAD), make_stage(ALL, optimizer=dict(moments="bfloat16"))
    plans = [resolve(spec, skeleton, stage) for stage in stages]
    ages = optim.ages(plans[:1]), optim.ages(plans)
    first, second = map(optim.build, plans, stages, (10, 10), ages)
    before, after = ({path: jnp.ones(skeleton.entries[path].shape) for path in plan.trainable} for plan in plans)
    _, state = first.update(before, first.init(before), before)
    moments = [x for x in jax.tree.leaves(optim.carry(state, second.init(after))) if x.ndim]
    assert {x.dtype.name for x in moments} == {"bfloat16"}
    assert sum(bool(x.any()) for x in moments) == 2 * len(before)


def test_an_unknown_way_is_refused():
    stage = make_stage(HEAD, optimizer=dict(moments="int8"))
    with pytest.raises(UserError, match=r"unknown optimizer\.moments 'int8'; .*bfloat16"):
        optim.build(resolve(*fake_vit(), stage), stage, 10)
