"""Every division of 1, 2, 4 and 8 devices gives the same losses, in classification and in self-distillation.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m pytest -n0 -m soak tests/soak/test_every_mesh.py
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.distill_ours import STAGE
from jaxdino import optim
from jaxdino.core import sharding
from jaxdino.core.params import abstract, split
from jaxdino.models.initial import ShapesOnly
from jaxdino.objectives.distill import SelfDistillation, with_heads
from jaxdino.objectives.distill_settings import Distill, Projection
from jaxdino.strategy import resolve
from jaxdino.train import state, step
from tests.train.test_mesh_axes import CONFIG, SPEC, losses

ALL_DEVICES = True
MESHES = [axes for axes in itertools.product((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4)) if 1 < np.prod(axes) <= 8]
METHODS = {
    "dinov2": dict(ibot=1.0, koleo=0.1),
    "dinov3": dict(ibot=1.0, koleo=0.1, gram=2.0, centring="sinkhorn"),
}
OUT, MASKED = 64, 3
ONE_BLOCK = dataclasses.replace(SPEC, config=dataclasses.replace(CONFIG, depth=1))  # which compiles in half the time


def enough(mesh: tuple[int, int, int]) -> None:
    if np.prod(mesh) > jax.device_count():
        pytest.skip(f"{jax.device_count()} devices: the first lines of this file say how to have eight")


@pytest.mark.soak
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_classification(mesh):
    enough(mesh)
    np.testing.assert_allclose(losses(mesh), losses((1, 1, 1)), rtol=2e-5)


@functools.cache
def distilled(axes: tuple[int, int, int], method: str) -> np.ndarray:
    """Loss and norm of the gradient of three steps: KoLeo and the centres look at one group of images a part."""
    data, fsdp, tensor = axes
    mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp * tensor], tensor)
    settings, spec = (
        Distill(**METHODS[method]),
        with_heads(ONE_BLOCK, Projection(OUT, hidden_dim=64, bottleneck_dim=32)),
    )
    skeleton, flat = split(spec.build(rngs=nnx.Rngs(0)))
    flat = sharding.put(flat, sharding.shardings(flat, mesh))
    plan = resolve(spec, skeleton, STAGE)
    tx = optim.build(plan, STAGE, 100, steps_per_epoch=10)
    reference = abstract(lambda: ONE_BLOCK.config.build(rngs=ShapesOnly(), drop_path=0.0))
    teacher = {
        "buffers": {path: flat[path] for path, entry in skeleton.entries.items() if entry.kind != "param"},
        "centres": {head: jnp.zeros(OUT) for head in ("dino_head", "ibot_head")},
        "reference": {path: flat[f"backbone.{path}"] for path in reference.entries if settings.gram},
    }
    average = {path: flat[path] for path in plan.trainable}
    now = state.begin(flat, skeleton, plan, tx, seed=0, mesh=mesh, ema=average, more={"teacher": teacher})
    shards = sharding.batch_shards(mesh)
    objective = SelfDistillation(
        settings,
        skeleton,
        reference,
        temperature=lambda count: jnp.float32(0.07),
        momentum=optim.cosine_between(0.99, 1.0, 100),
        capacity=8 // shards * MASKED,
        groups=shards,
    )
    one = step.make_train_step(skeleton, objective, tx, lambda key, batch: batch, ema_decay=objective.momentum)
    compiled, found = step.compile_train_step(one, now, mesh), []
    rng = np.random.default_rng(0)
    views = {
        kind: rng.standard_normal((8, 2, side, side, 3), np.float32) for kind, side in (("global", 16), ("local", 8))
    }
    mask = np.zeros((8, 2, 4), bool)
    mask[:, 0, :MASKED] = True
    batch = sharding.put_batch(views | {"mask": mask.reshape(8, 2, 2, 2), "weight": np.ones(8, np.float32)}, mesh)
    for _ in range(3):
        now["moving"], measured = compiled(now["moving"], now["frozen"], batch)
        found.append([float(measured[name]) for name in ("loss", "grad_norm")])
    return np.array(found)


@pytest.mark.soak
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mesh", [mesh for mesh in MESHES if mesh[0] > 1 or mesh[1] > 1], ids=str)
def test_self_distillation(mesh, method):
    enough(mesh)
    same = (mesh[0] * mesh[1], 1, 1)  # KoLeo compares the images of a part of the batch
    np.testing.assert_allclose(distilled(mesh, method), distilled(same, method), rtol=1e-4)
