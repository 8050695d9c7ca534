"""The step: slices, frozen leaves, EMA, clipping, loss scaling, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax import nnx

from jaxdino import optim
from jaxdino.core import sharding
from jaxdino.core.params import split
from jaxdino.data.photometric import normalize
from jaxdino.objectives.classify import Classify, soften
from jaxdino.stage import Stage
from jaxdino.strategy import resolve
from jaxdino.train import state as states
from jaxdino.train import step as steps

SKELETON, FLAT = split(tiny.SPEC.build(10, rngs=nnx.Rngs(0)))
LAST = tiny.stages(1, 1)[1]


def batch(weights=None):
    rng = np.random.default_rng(1)
    return {
        "image": rng.integers(0, 256, (16, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 10, 16).astype(np.int32),
        "weight": np.ones(16, np.float32) if weights is None else np.asarray(weights, np.float32),
    }


def plain(key, given):
    return given | {"image": normalize(given["image"], (0.5,) * 3, (0.5,) * 3)}


def train(given, *, number=3, devices=4, fsdp=1, flat=FLAT, tx=None, spy=None, **options):
    """(state before, state after, metrics of each step) of some steps on one batch."""
    mesh = sharding.make_mesh(-1, fsdp, jax.devices()[:devices])
    stage = Stage.of(LAST, tiny.config())
    plan = resolve(tiny.SPEC, SKELETON, stage)
    tx = tx or optim.build(plan, stage, 10)
    placed = sharding.put(flat, sharding.shardings(flat, mesh))
    ema = {path: placed[path] for path in plan.trainable} if options.get("ema_decay") else None
    state = states.begin(placed, SKELETON, plan, tx, seed=0, ema=ema, mesh=mesh)
    if spy:
        spy(state)
    before = jax.tree.map(lambda x: np.array(x), state)
    function = steps.make_train_step(SKELETON, Classify(0.1), tx, plain, **options)
    compiled = steps.compile_train_step(function, state, mesh)
    found = []
    for _ in range(number):
        state["moving"], metrics = compiled(state["moving"], state["frozen"], sharding.put_batch(given, mesh))
        found.append({name: float(value) for name, value in metrics.items()})
    assert compiled._cache_size() == 1
    return before, state, found


def test_slices_add_up_to_the_whole_batch():
    weights = [1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 1]  # slices of unequal weight
    sgd = optax.sgd(0.1)
    _, whole, losses = train(batch(weights), tx=sgd, devices=1)
    _, sliced, sliced_losses = train(batch(weights), tx=sgd, devices=1, accumulate=4)
    for path, value in whole["moving"]["trainable"].items():
        np.testing.assert_allclose(sliced["moving"]["trainable"][path], value, atol=1e-6, err_msg=path)
    np.testing.assert_allclose([m["loss"] for m in sliced_losses], [m["loss"] for m in losses], rtol=1e-6)


@pytest.mark.parametrize("fsdp", [1, 4])
def test_four_devices_give_the_losses_of_one(fsdp):
    _, _, one = train(batch(), devices=1)
    _, _, four = train(batch(), devices=4, fsdp=fsdp, accumulate=2)
    for name in ("loss", "accuracy", "grad_norm"):
        np.testing.assert_allclose([m[name] for m in four], [m[name] for m in one], rtol=2e-5, err_msg=name)


def test_frozen_leaves_are_bitwise_unchanged_and_have_no_moments():
    before, after, _ = train(batch())
    for path, value in before["frozen"].items():
        assert np.array_equal(value, after["frozen"][path]), path
    moved = [p for p, v in before["moving"]["trainable"].items() if (v != after["moving"]["trainable"][p]).any()]
    assert "head.kernel" in moved and "backbone.blocks.1.mlp.fc1.kernel" in moved
    paths = {sharding.leaf_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(before["moving"]["opt"])}
    assert not paths & before["frozen"].keys()


def test_frozen_leaves_count_neither_in_the_gradient_norm_nor_in_the_clipping():
    def loss(trainable, rest):
        model = steps.bind(SKELETON, rest | trainable)
        return Classify(0.1).loss(model, jax.tree.map(jnp.asarray, plain(None, batch())), None)[0]

    before, _, found = train(batch(), number=1)
    trainable = {path: FLAT[path] for path in before["moving"]["trainable"]}
    grads = jax.jit(jax.grad(loss))(trainable, FLAT)
    np.testing.assert_allclose(found[0]["grad_norm"], optax.tree.norm(grads), rtol=1e-5)
    clip = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0))
    before, after, _ = train(batch(), number=1, tx=clip)
    change = [after["moving"]["trainable"][p] - v for p, v in before["moving"]["trainable"].items()]
    np.testing.assert_allclose(optax.tree.norm(change), 1e-3, rtol=1e-3)


def test_ema_is_the_formula_and_aliases_nothing():
    seen = {}

    def spy(state):
        for name in ("trainable", "ema"):
            leaf = state["moving"][name]["head.kernel"]
            seen[name] = leaf.addressable_shards[0].data.unsafe_buffer_pointer()

    before, after, _ = train(batch(), number=1, ema_decay=0.9, spy=spy)
    assert seen["trainable"] != seen["ema"]
    for path, ema in after["moving"]["ema"].items():
        expected = 0.9 * before["moving"]["trainable"][path] + 0.1 * np.asarray(after["moving"]["trainable"][path])
        np.testing.assert_allclose(ema, expected, atol=1e-7)
        assert ema.dtype == jnp.float32


def test_a_step_that_overflows_is_skipped_and_counted():
    bad = batch()
    bad["weight"] = np.full(16, np.inf, np.float32)
    before, after, found = train(bad, number=2, scale_loss=True)
    for path, value in before["moving"]["trainable"].items():
        assert np.array_equal(value, after["moving"]["trainable"][path]), path
    assert found[-1]["skipped"] == 2
    assert float(after["moving"]["scale"]["value"]) == states.FIRST_SCALE / 4
    assert int(after["moving"]["step"]) == 2


def test_loss_scaling_changes_nothing_else_and_grows():
    _, scaled, _ = train(batch(), scale_loss=True)
    _, plainly, _ = train(batch())
    for path, value in plainly["moving"]["trainable"].items():
        np.testing.assert_allclose(scaled["moving"]["trainable"][path], value, atol=1e-6)
    scale = {"value": jnp.float32(8.0), "good": jnp.int32(steps.GROWTH_INTERVAL - 1), "skipped": jnp.int32(0)}
    grown = steps.next_scale(scale, jnp.array(True))
    assert float(grown["value"]) == 16.0 and int(grown["good"]) == 0
    assert float(steps.next_scale(grown, jnp.array(False))["value"]) == 8.0


def test_label_smoothing_is_torchs():
    import torch

    logits, labels = (
        np.random.default_rng(2).normal(size=(5, 7)).astype(np.float32),
        np.array([0, 6, 2, 2, 3]),
    )
    targets = soften(jnp.asarray(labels), 7, 0.1)
    ours = -(np.asarray(targets) * np.asarray(jax.nn.log_softmax(logits))).sum(-1).mean()
    theirs = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), label_smoothing=0.1)
    assert ours == pytest.approx(theirs.item(), abs=1e-6)
