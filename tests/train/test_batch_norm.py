"""Batch norm in training steps: which statistics move, slices, devices, and a plain torch loop beside it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import torch
from flax import nnx
from torch.nn import functional as F

from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind, split
from jaxdino.data.photometric import normalize
from jaxdino.models import resnet
from jaxdino.models.batch_norm import BatchNorm, set_training
from jaxdino.models.spec import ModelSpec, Preprocess
from jaxdino.objectives.classify import Classify
from jaxdino.stage import Stage
from jaxdino.strategy import resolve
from jaxdino.train import state as states
from jaxdino.train import step as steps

CONFIG = resnet.ResNetConfig(bottleneck=False, depths=(1, 1), widths=(8, 12), reduction=1, stem=8)
SPEC = ModelSpec("tiny_resnet", "resnet", CONFIG, Preprocess(size=(16, 16), crop_pct=1.0), "mean", last_layers=1)
SKELETON, FLAT = split(SPEC.build(5, rngs=nnx.Rngs(0)))
FLAT["head.kernel"] = 20 * FLAT["head.kernel"]  # so that gradients reach the backbone
STATISTICS = [path for path in SKELETON.entries if SKELETON.entries[path].kind != "param"]
RATE, STEPS = 0.1, 5


def batch(seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (16, 16, 16, 3), np.uint8),
        "label": rng.integers(0, 5, 16).astype(np.int32),
        "weight": np.ones(16, np.float32),
    }


def plain(key, given):
    return given | {"image": normalize(given["image"], (0.5,) * 3, (0.5,) * 3)}


def train(stage_number: int, batches, *, devices: int = 1, remat: bool = False, **options):
    """(state before, state after, losses) of steps of plain SGD in a stage of the tiny strategy."""
    skeleton = SPEC.skeleton(5, remat=remat)
    mesh = sharding.make_mesh(-1, 1, jax.devices()[:devices])
    stage = Stage.of(tiny.stages(1, 1, 1)[stage_number], tiny.config())
    plan = resolve(SPEC, skeleton, stage)
    tx = optax.sgd(RATE)
    placed = sharding.put(FLAT, sharding.shardings(FLAT, mesh))
    state = states.begin(placed, skeleton, plan, tx, seed=0, mesh=mesh)
    before = jax.tree.map(lambda x: np.array(x), state)
    function = steps.make_train_step(skeleton, Classify(0.0), tx, plain, **options)
    compiled = steps.compile_train_step(function, state, mesh, remat=remat)
    losses = []
    for given in batches:
        state["moving"], found = compiled(state["moving"], state["frozen"], sharding.put_batch(given, mesh))
        losses.append(float(found["loss"]))
    return before, state, losses


def moved(before, after) -> list[str]:
    """The statistics that a run has changed."""
    then, now = before["moving"]["buffers"], after["moving"]["buffers"]
    assert sorted(then) == sorted(STATISTICS)
    return [path for path in then if not np.array_equal(then[path], now[path])]


def test_only_trained_norms_move():
    assert moved(*train(0, [batch()])[:2]) == []
    last = moved(*train(1, [batch()])[:2])
    assert last == [path for path in STATISTICS if path.startswith("backbone.layer2")]
    assert sorted(moved(*train(2, [batch()])[:2])) == sorted(STATISTICS)


def test_frozen_norms_use_their_running_statistics():
    _, _, (loss,) = train(0, [batch()])
    logits = bind(SKELETON, FLAT)(plain(None, {"image": jnp.asarray(batch()["image"])})["image"]).logits
    expected = F.cross_entropy(torch.tensor(np.asarray(logits)), torch.tensor(batch()["label"]).long())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_slices_move_the_statistics_one_after_the_other():
    _, after, losses = train(2, [batch()], accumulate=2)
    halves = [{name: value[n::2] for name, value in batch().items()} for n in range(2)]
    model, expected = bind(SKELETON, FLAT), []
    set_training(model, SKELETON.paths("param"))
    for half in halves:
        expected.append(float(Classify(0.0).loss(model, plain(None, jax.tree.map(jnp.asarray, half)), None)[0]))
    np.testing.assert_allclose(losses, [np.mean(expected)], rtol=1e-5)
    flat = split(model)[1]
    for path in STATISTICS:
        np.testing.assert_allclose(after["moving"]["buffers"][path], flat[path], rtol=1e-5, atol=1e-6, err_msg=path)
    assert int(after["moving"]["buffers"]["backbone.bn1.num_batches_tracked"]) == 2


@pytest.mark.parametrize("how", [dict(devices=4), dict(remat=True)], ids=["devices", "remat"])
def test_the_same_on_four_devices_and_with_remat(how):
    """The batch is the global batch, whatever the number of devices."""
    batches = [batch(n) for n in range(3)]
    _, one, losses = train(2, batches)
    _, other, other_losses = train(2, batches, **how)
    np.testing.assert_allclose(other_losses, losses, rtol=1e-4)
    for part in ("trainable", "buffers"):
        for path, value in one["moving"][part].items():
            np.testing.assert_allclose(other["moving"][part][path], value, rtol=1e-4, atol=1e-5, err_msg=path)


def torch_logits(flat, running, x):
    """The tiny network in torch functions; `running` statistics move in place."""

    def step(x, conv, norm, stride):
        weight = flat[f"backbone.{conv}.kernel"].permute(3, 2, 0, 1)
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        names = [f"backbone.{norm}.{name}" for name in ("mean", "var", "scale", "bias")]
        return F.batch_norm(x, *(running[n] for n in names[:2]), *(flat[n] for n in names[2:]), training=True)

    x = F.max_pool2d(F.relu(step(x, "conv1", "bn1", 2)), 3, 2, 1)
    for name, stride in (("layer1.0", 1), ("layer2.0", 2)):
        branch = step(F.relu(step(x, f"{name}.conv1", f"{name}.bn1", stride)), f"{name}.conv2", f"{name}.bn2", 1)
        shortcut = step(x, f"{name}.downsample.0", f"{name}.downsample.1", stride) if stride > 1 else x
        x = F.relu(branch + shortcut)
    return x.mean(dim=(2, 3)) @ flat["head.kernel"] + flat["head.bias"]


def test_five_steps_are_a_plain_torch_loop():
    batches = [batch()] * STEPS
    _, after, losses = train(2, batches)
    tensors = {path: torch.tensor(np.asarray(array)) for path, array in FLAT.items()}
    flat = {path: tensors[path].requires_grad_() for path in SKELETON.paths("param")}
    running = {path: tensors[path] for path in SKELETON.paths("batch_stat")}
    optimizer, expected = torch.optim.SGD(flat.values(), lr=RATE), []
    for given in batches:
        pixels = torch.tensor(given["image"]).permute(0, 3, 1, 2) / 255 * 2 - 1
        loss = F.cross_entropy(torch_logits(flat, running, pixels), torch.tensor(given["label"]).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    assert max(expected) - min(expected) > 0.1
    for path, value in running.items():
        np.testing.assert_allclose(after["moving"]["buffers"][path], value, rtol=1e-4, atol=1e-4, err_msg=path)
    for path, value in flat.items():
        np.testing.assert_allclose(after["moving"]["trainable"][path], value.detach(), atol=1e-4, err_msg=path)


def test_half_precision_keeps_float32_statistics():
    model = BatchNorm(4)
    model.training = True
    x = jax.random.normal(jax.random.key(0), (64, 4)) * 3 + 1
    assert model(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert model.mean[...].dtype == jnp.float32
    np.testing.assert_allclose(model.mean[...], 0.1 * x.mean(axis=0), atol=2e-3)


def test_one_value_a_channel_has_no_variance():
    model = BatchNorm(4)
    model.training = True
    with pytest.raises(UserError, match="more than one value"):
        model(jnp.ones((1, 1, 1, 4)))


def test_a_run_of_the_gradual_strategy_trains_a_resnet(tmp_path, monkeypatch):
    from convert.load import load_pretrained
    from jaxdino.models import registry
    from jaxdino.train.loop import run

    spec = dataclasses.replace(SPEC, preprocess=tiny.SPEC.preprocess)
    monkeypatch.setitem(registry.MODELS, "tiny_resnet", spec)
    config = tiny.config(1, 1, 1, batch_size=256, data__name="digits")  # of few images not every stage is better
    config.model.name = config.model.configured_for = "tiny_resnet"
    run(config, str(tmp_path / "run"))
    best = load_pretrained(tmp_path / "run")
    assert best.card.spec.name == "tiny_resnet"
    assert best.flat["backbone.bn1.num_batches_tracked"] > 0
    assert best.flat["backbone.bn1.num_batches_tracked"].dtype == np.int32
    assert best.flat["backbone.layer2.0.bn1.num_batches_tracked"] > best.flat["backbone.bn1.num_batches_tracked"]
