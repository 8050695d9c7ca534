"""The first value that is not finite: its layer, its direction, its images; and the folder that finds it again."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_distill
import tiny_segment
import tiny_semantic
from flax import nnx
from test_multilabel_run import config as multilabel_config
from test_multilabel_run import manifest

from jaxdino import optim, replay
from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.core.params import split
from jaxdino.data.photometric import normalize
from jaxdino.models import vit
from jaxdino.objectives.classify import Classify
from jaxdino.stage import Stage
from jaxdino.strategy import resolve
from jaxdino.train import state as states
from jaxdino.train import step as steps
from jaxdino.train.loop import run
from jaxdino.train.not_finite.check import checked
from jaxdino.train.not_finite.finding import diagnose

SKELETON, FLAT = split(tiny.SPEC.build(10, rngs=nnx.Rngs(0)))
B = 8
KERNEL = "backbone.blocks.1.mlp.fc1.kernel"


def batch():
    rng = np.random.default_rng(1)
    return {
        "image": rng.integers(0, 256, (B, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 10, B).astype(np.int32),
        "weight": np.ones(B, np.float32),
    }


def normalized(std=0.5):
    return lambda key, given: given | {"image": normalize(given["image"], (0.5,) * 3, (std,) * 3)}


def state(flat=FLAT, lr=1e-3):
    """(optimiser, state) of a stage that trains everything."""
    mesh = sharding.make_mesh(-1, 1, jax.devices()[:1])
    stages = tiny.stages(1, 1, 1)[2]
    for group in stages.groups.values():
        group.lr = lr
    stage = Stage.of(stages, tiny.config(optimizer__clip_norm=0.0))
    plan = resolve(tiny.SPEC, SKELETON, stage)
    tx = optim.build(plan, stage, 10)
    placed = sharding.put(flat, sharding.shardings(flat, mesh))
    return tx, states.begin(placed, SKELETON, plan, tx, seed=0, mesh=mesh)


PLAIN, HALF = Classify(), normalized()


def found(objective=PLAIN, flat=FLAT, given=None, lr=1e-3, augment=HALF, before=0, **options):
    """The finding of a step, after `before` steps."""
    tx, begun = state(flat, lr)
    given = {name: jnp.asarray(one) for name, one in (given or batch()).items()}
    make = lambda: steps.make_train_step(SKELETON, objective, tx, augment, **options)  # noqa: E731
    for _ in range(before):
        begun["moving"], _ = jax.jit(make())(begun["moving"], begun["frozen"], given)
    return diagnose(make(), begun["moving"], begun["frozen"], given, options.get("accumulate", 1))


@dataclasses.dataclass(frozen=True)
class Rooted(Classify):
    """A loss of which only the gradient is not finite: a square root at 0."""

    def loss(self, model, batch, key):
        loss, aux = super().loss(model, batch, key)
        return loss + jnp.sqrt(jnp.sum((0 * model(batch["image"], key=key).logits) ** 2)), aux


@dataclasses.dataclass(frozen=True)
class Infinite(Classify):
    """A loss that is infinite for the images of class 3, from finite outputs."""

    def loss(self, model, batch, key):
        logits = model(batch["image"], key=key).logits
        small = jnp.where(batch["label"] == 3, 0.0, 1.0)
        return jnp.sum(-jnp.log(small * jax.nn.sigmoid(logits[:, 0]))), {"accuracy": jnp.zeros(())}


def mlp(monkeypatch, change):
    """Change the output of the feed-forward layers."""
    old = vit.Mlp.__call__
    monkeypatch.setattr(vit.Mlp, "__call__", lambda self, x: change(old(self, x)))


def test_a_step_without_fault_has_none_and_the_layers_are_as_before():
    calls = {cls: cls.__call__ for cls in (vit.ViT, vit.Block, vit.Mlp, vit.Attention)}
    assert found(accumulate=2) is None
    assert all(cls.__call__ is call for cls, call in calls.items())


def test_a_parameter_that_is_infinite():
    one = found(flat=FLAT | {KERNEL: FLAT[KERNEL].at[0, 0].set(jnp.inf)})
    assert (one.layer, one.direction) == ("backbone.blocks.1.mlp.fc1", "forward")
    assert one.before == (f"trainable/{KERNEL}",) and one.rows == ()
    assert "the output of backbone.blocks.1.mlp.fc1 (forward)" in one.what


def test_a_normalisation_that_divides_by_nothing():
    one = found(augment=normalized(1e-45))
    assert (one.layer, one.what) == ("", "the images after augmentation and normalisation (image)")


def test_values_of_the_batch():
    given = batch()
    given["weight"][5] = np.nan
    one = found(given=given)
    assert one.what == "the batch as it was read: weight" and one.rows == (5,)


def test_a_learning_rate_at_which_training_diverges():
    one = found(lr=1e15, before=1)
    assert one.direction == "forward" and one.layer.startswith("backbone.blocks.0.attn") and one.weight > 1e14


def test_an_update_that_overflows():
    one = found(lr=3e38, flat=FLAT | {KERNEL: FLAT[KERNEL] * 0, "head.bias": jnp.full(10, 2e38)})
    assert (one.layer, one.direction) == ("head", "") and one.what == "after the optimiser's update: head.bias"


@pytest.mark.parametrize("slices", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_some_images_of_a_batch_and_their_slices(monkeypatch, slices):
    given = batch()
    given["image"][[3, 6]] = 255
    old = vit.Block.__call__

    def call(self, x, rope, key):
        white = jnp.abs(x[:, -4:] - x[:, -1:]).max((1, 2)) < 1e-5  # all four patches alike
        return jnp.where(white[:, None, None], jnp.nan, old(self, x, rope, key))

    monkeypatch.setattr(vit.Block, "__call__", call)
    one = found(given=given, accumulate=slices)
    assert one.rows == (3, 6) and (one.layer, one.direction) == ("backbone.blocks.0", "forward")


def test_only_the_gradient_of_a_loss():
    one = found(Rooted())
    assert (one.layer, one.direction) == ("the loss", "backward") and "at the output of the model" in one.what


def test_only_the_gradient_in_a_layer(monkeypatch):
    mlp(monkeypatch, lambda y: y + jnp.sqrt(0 * jnp.abs(y)))
    one = found()
    assert (one.layer, one.direction) == ("backbone.blocks.1.mlp", "backward")
    assert one.largest is not None and np.isfinite(one.largest)


def test_a_loss_from_finite_outputs():
    given = batch()
    given["label"][:] = 1
    given["label"][[2, 4]] = 3
    one = found(Infinite(), given=given)
    assert one.what == "the loss, from finite outputs of the model" and one.rows == (2, 4)


def test_the_checked_step_keeps_the_state_from_before():
    tx, begun = state(FLAT | {KERNEL: FLAT[KERNEL].at[0, 0].set(jnp.inf)})
    given = {name: jnp.asarray(one) for name, one in batch().items()}
    made = steps.make_train_step(SKELETON, Classify(), tx, normalized())
    after, measured = jax.jit(checked(made, half=False))(begun["moving"], begun["frozen"], given)
    assert not measured["finite"]["loss"] and int(after["step"]) == 0
    np.testing.assert_array_equal(after["trainable"][KERNEL], begun["moving"]["trainable"][KERNEL])
    tx, begun = state()
    plain, _ = jax.jit(made)(begun["moving"], begun["frozen"], given)
    after, measured = jax.jit(checked(made, half=False))(begun["moving"], begun["frozen"], given)
    assert all(map(bool, measured["finite"].values())) and int(after["step"]) == 1
    np.testing.assert_allclose(after["trainable"][KERNEL], plain["trainable"][KERNEL], rtol=1e-6, atol=1e-9)


def stopped(config, folder, capsys):
    """(the error's lines, what the replay prints) of a run that stops."""
    with pytest.raises(UserError) as err:
        run(config, folder)
    (saved,) = folder.glob("nan_step*")
    capsys.readouterr()
    assert replay.main([str(saved)]) == 0
    lines = [line.strip() for line in str(err.value).splitlines()]
    again = capsys.readouterr().out.splitlines()
    assert lines[:-1] == again == (saved / "finding.txt").read_text().splitlines()
    assert lines[-1].startswith(f"saved in {saved}")
    return again


def diverging(lr=1e15):
    chosen = tiny.stages(0, 0, 1)
    for group in chosen[2].groups.values():
        group.lr = lr
    return chosen


def test_a_run_stops_is_saved_and_replayed(tmp_path, capsys):
    how = dict(optimizer__clip_norm=0.0, stages=diverging(), checkpoint__every_steps=1)
    again = stopped(tiny.config(1, debug__nan=True, **how), tmp_path / "run", capsys)
    assert again[0] == "the loss is not finite at step 2 (step 2 of stage 'all'), and so gradient, parameters, state"
    assert "(forward)" in again[1] and "backbone.blocks.0.attn" in again[1]
    assert any(line.startswith("largest finite parameter of the layer:") and "e+1" in line for line in again)
    assert "all 64 of the batch" in again[-1]
    step = json.loads((tmp_path / "run" / "nan_step2" / "step.json").read_text())
    assert (step["step"], step["stage"], len(step["images"])) == (2, "all", 64) and step["images"][0] == "train[135]"
    steps_there = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert steps_there == [1]  # nothing of the bad step
    with pytest.raises(UserError, match=r"the loss is nan at step 2.*debug.nan=True names the layer"):
        run(tiny.config(1, **how), tmp_path / "run")  # the setting may change when the run is resumed


def test_a_run_without_fault_goes_through(tmp_path):
    assert run(tiny.config(1, batch_size=128, debug__nan=True), tmp_path)["finished"]
    assert not list(tmp_path.glob("nan_step*"))


TASKS = {
    "multilabel": (lambda folder: multilabel_config(manifest(folder), 0, 0, 1), "backbone.blocks.0", 32),
    "semantic": (lambda folder: tiny_semantic.config("full"), "backbone.blocks.0", 32),
    "distill": (lambda folder: tiny_distill.config(1), "backbone.blocks.0", 2 * 32),  # two global crops of an image
    "segment": (lambda folder: tiny_segment.config(0, 1), "backbone.dino.blocks.0", 64),
}
SOAKED = ("multilabel", "semantic", "segment")  # as classification, of which the run above is


@pytest.mark.slow
@pytest.mark.parametrize("task", ["distill", *(pytest.param(name, marks=pytest.mark.soak) for name in SOAKED)])
def test_every_task(monkeypatch, tmp_path, capsys, task):
    make, layer, rows = TASKS[task]
    mlp(
        monkeypatch,
        lambda y: jnp.where(jnp.arange(len(y))[:, None, None] == 1 if len(y) == rows else False, jnp.inf, y),
    )
    config = make(tmp_path)
    config.debug.nan = True
    again = stopped(config, tmp_path / "run", capsys)
    assert f"the output of {layer}.mlp (forward" in again[1]
    assert ("while the targets are computed" in again[1]) == (task == "distill")
    assert "images (1 of" in again[-1]


def test_folders_that_are_none(tmp_path, capsys):
    assert replay.main([str(tmp_path / "nan_step1")]) == 2
    assert "is not a folder of a step that is not finite (state.safetensors is missing)" in capsys.readouterr().err
