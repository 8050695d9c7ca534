"""Contenders: our forward passes and the library's own training step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.harness import Contender
from jaxdino import optim
from jaxdino.core import sharding
from jaxdino.core.params import bind, split
from jaxdino.data.photometric import normalize
from jaxdino.models import few_images, registry
from jaxdino.models.lora import LoRA, adapted
from jaxdino.models.remat import SETTINGS
from jaxdino.models.spec import ModelSpec
from jaxdino.objectives.classify import Classify
from jaxdino.stage import Group, Stage
from jaxdino.strategy import resolve
from jaxdino.train import state, step

NUM_CLASSES = 100
RULES = {
    "all": (("@all", "trained"),),
    "last4": (("@head", "trained"), ("@norm", "trained"), ("@last:4", "trained"), ("@all", "frozen")),
    "head": (("@head", "trained"), ("@all", "frozen")),
    "lora": ((r"(.*\.)?lora\..*", "trained"), ("@head", "trained"), ("@all", "frozen")),
}
"""Values of `--trainable` -> a stage's rules."""


def stage_of(trainable: str, **settings) -> Stage:
    """A stage of constant rate that trains one of `RULES`; `settings` are fields of `Stage`."""
    groups = {"trained": Group(lr=1e-4, weight_decay=0.05)}
    if trainable != "all":
        groups["frozen"] = Group(frozen=True)
    if trainable == "lora":
        settings["lora"] = LoRA(rank=16, targets=("@attn",))
    return Stage(name=trainable, rules=RULES[trainable], groups=groups, steps=1000, **settings)


def uint8_batch(batch: int, size: int) -> dict[str, np.ndarray]:
    """Make a batch in the form of the input pipeline."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8),
        "label": rng.integers(0, NUM_CLASSES, batch).astype(np.int32),
        "weight": np.ones(batch, np.float32),
    }


def forward(name: str, batch: int, size: int, dtype: str, attention: str, stored: str | None = None) -> Contender:
    """The forward pass to the logits, as `jaxdino.load`: weights `stored` in the compute dtype by default."""
    compiled, given = forward_program(name, batch, size, dtype, attention, stored)
    return Contender(f"jaxdino {dtype}", lambda: compiled(*given).block_until_ready(), batch, peer=False)


def forward_program(name: str, batch: int, size: int, dtype: str, attention: str, stored: str | None = None):
    """(compiled program, its arguments) of `forward`."""
    model = registry.get(name).build(NUM_CLASSES, dtype=jnp.dtype(dtype), attention=attention)
    skeleton, flat = split(model)
    flat = {
        path: x.astype(stored or dtype) if skeleton.entries[path].kind == "param" else x for path, x in flat.items()
    }
    images = jnp.zeros((batch, size, size, 3), dtype)
    program = jax.jit(lambda flat, images: few_images.forward(bind(skeleton, flat), images).logits)
    return program.lower(flat, images).compile(), (flat, images)


def train_step(spec: ModelSpec, stage: Stage, mesh: Mesh, **build):
    """(jitted step, state) of a stage with random weights: what the training loop runs.

    Args:
      build: `dtype`, `attention`, `remat` of `ModelSpec.build`.
    """
    skeleton, flat = split(spec.build(NUM_CLASSES, **build))
    if stage.lora:
        skeleton = adapted(skeleton, spec, stage.lora)
        flat |= {path: jnp.zeros(x.shape, x.dtype) for path, x in skeleton.shapes.items() if path not in flat}
    plan = resolve(spec, skeleton, stage)
    tx = optim.build(plan, stage, total_steps=stage.steps)
    flat = sharding.put(flat, sharding.shardings(flat, mesh))
    current = state.begin(flat, skeleton, plan, tx, seed=0, mesh=mesh)
    mean, std = spec.preprocess.mean, spec.preprocess.std

    def normalized(key, batch):
        return batch | {"image": normalize(batch["image"], mean, std)}

    one_step = step.make_train_step(skeleton, Classify(), tx, normalized, accumulate=stage.accumulate or 1)
    return step.compile_train_step(one_step, current, mesh, remat=build.get("remat", False)), current


def training(
    name: str, batch: int, size: int, dtype: str, trainable: str, slices: int, attention: str, remat: str = "none"
) -> Contender:
    """The training loop's step: forward, backward, AdamW."""
    compiled, current, given = step_program(name, batch, size, dtype, trainable, slices, attention, remat)

    def run():
        current["moving"], measured = compiled(current["moving"], current["frozen"], given)
        jax.block_until_ready((current["moving"]["trainable"], measured))

    label = f"jaxdino {dtype}" + (f", {slices} slices" if slices > 1 else "")
    return Contender(label, run, batch, peer=False)


def step_program(
    name: str, batch: int, size: int, dtype: str, trainable: str, slices: int, attention: str, remat: str = "none"
):
    """(compiled program, state, batch) of `training`."""
    mesh = sharding.make_mesh()
    stage = stage_of(trainable, accumulate=slices)
    build = dict(dtype=jnp.dtype(dtype), attention=attention, remat=SETTINGS[remat])
    run_step, current = train_step(registry.get(name), stage, mesh, **build)
    given = sharding.put_batch(uint8_batch(batch, size), mesh)
    return step.compiled(run_step, current["moving"], current["frozen"], given), current, given


def as_peer(name: str, contender: Contender) -> Contender:
    """Return one of our contenders as a peer."""
    return dataclasses.replace(contender, name=name, peer=True)
