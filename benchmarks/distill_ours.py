"""Contenders: our self-distillation step, on given crops or from files."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.distill_step import METHODS
from benchmarks.harness import Contender
from jaxdino import optim
from jaxdino.core import sharding
from jaxdino.core.params import abstract, split
from jaxdino.data.config import DataConfig
from jaxdino.data.photometric import augment_views
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.recipe import DINO, expanded
from jaxdino.data.record import Split
from jaxdino.models import registry
from jaxdino.models.initial import ShapesOnly
from jaxdino.objectives.distill import SelfDistillation, with_heads
from jaxdino.objectives.distill_settings import Distill, Projection
from jaxdino.stage import Group, Stage
from jaxdino.strategy import resolve
from jaxdino.train import state, step

STEPS, EPOCH = 1000, 100
GROUP = Group(lr=5e-4, weight_decay=0.04, weight_decay_end=0.4)
STAGE = Stage(
    name="step",
    rules=((r"dino_head\.last_layer\..*", "last"), ("@all", "all")),
    groups={"all": GROUP, "last": replace(GROUP, freeze_epochs=1.0)},
    steps=STEPS,
    clip_norm=3.0,
    clip_by="parameter",
)


def idle() -> None:
    """Import the libraries and run a minimal program."""
    jnp.zeros(1).block_until_ready()


def program(args: argparse.Namespace, capacity: int, augment: Callable) -> tuple[Callable, dict]:
    """Return (the jitted step, its state), built as in the training loop."""
    mesh, backbone = sharding.make_mesh(), registry.get(args.model)
    settings = Distill(**METHODS[args.method])
    spec = with_heads(backbone, Projection(out_dim=args.out_dim))
    how = dict(dtype=jnp.dtype(args.dtype), attention=args.attention)
    skeleton, flat = split(spec.build(rngs=nnx.Rngs(0), **how))
    flat = sharding.put(flat, sharding.shardings(flat, mesh))
    plan = resolve(spec, skeleton, STAGE)
    tx = optim.build(plan, STAGE, STEPS, steps_per_epoch=EPOCH)
    reference = abstract(lambda: backbone.config.build(rngs=ShapesOnly(), drop_path=0.0, **how))
    teacher = {
        "buffers": {path: flat[path] for path, entry in skeleton.entries.items() if entry.kind != "param"},
        "centres": {head: jnp.zeros(args.out_dim) for head in ("dino_head", "ibot_head")},
        "reference": {path: flat[f"backbone.{path}"] for path in reference.entries if settings.gram},
    }
    average = {path: flat[path] for path in plan.trainable}
    now = state.begin(flat, skeleton, plan, tx, seed=0, mesh=mesh, ema=average, more={"teacher": teacher})
    objective = SelfDistillation(
        settings,
        skeleton,
        reference,
        temperature=lambda count: jnp.float32(settings.teacher_temperature),
        momentum=optim.cosine_between(settings.momentum, settings.final_momentum, STEPS),
        capacity=capacity,
        groups=mesh.size,
    )
    how = dict(accumulate=args.slices, ema_decay=objective.momentum)
    one = step.make_train_step(skeleton, objective, tx, augment, **how)
    return step.compile_train_step(one, now, mesh), now


def stepping(args: argparse.Namespace, crops: dict[str, np.ndarray]) -> Contender:
    """Return a contender that steps on one batch of crops."""
    jitted, now = program(args, _capacity(crops), lambda key, batch: batch)
    batch = _put(args, crops)
    compiled = step.compiled(jitted, now["moving"], now["frozen"], batch)

    def run():
        now["moving"], measured = compiled(now["moving"], now["frozen"], batch)
        jax.block_until_ready((now["moving"]["trainable"], measured))

    return Contender(f"jaxdino {args.dtype}", run, args.batch, peer=False)


def from_files(args: argparse.Namespace, files: Split, workers: int, crops: dict[str, np.ndarray]) -> Contender:
    """Return a contender that steps on crops cut from files in parallel; the masks are those of `crops`."""
    views = [replace(v, size=args.size) if v.kind == "global" else replace(v, size=args.local_size) for v in DINO]
    views = [replace(v, count=args.locals) if v.kind == "local" else v for v in views]
    recipes = {kind: expanded(views, kind) for kind in ("global", "local") if kind in crops}
    preprocess = registry.get(args.model).preprocess

    def augment(key: jax.Array, batch: dict) -> dict:
        keys = jax.random.split(key, len(recipes))
        parts = zip(keys, recipes.items(), strict=True)
        return batch | {k: augment_views(one, batch[k], r, preprocess.mean, preprocess.std) for one, (k, r) in parts}

    compiled, now = program(args, _capacity(crops), augment)
    config = DataConfig(name="images", num_threads=workers)
    batches: Iterator = make_train_iter(files, config, seed=0, batch_size=args.batch, views=views)

    def run():
        batch = _put(args, crops | {kind: next_[kind] for next_ in (next(batches),) for kind in recipes})
        now["moving"], measured = compiled(now["moving"], now["frozen"], batch)
        jax.block_until_ready((now["moving"]["trainable"], measured))

    return Contender(f"jaxdino {args.dtype}, {workers} threads", run, args.batch, peer=False)


def _capacity(crops: dict[str, np.ndarray]) -> int:
    """Return the largest number of masked patches on one device."""
    return int(crops["mask"].reshape(jax.device_count(), -1).sum(1).max())


def _put(args: argparse.Namespace, crops: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    names = [name for name in crops if name != "mask" or METHODS[args.method].get("ibot")]
    return sharding.put_batch({name: crops[name] for name in names}, sharding.make_mesh())
