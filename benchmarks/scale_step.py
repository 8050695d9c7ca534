"""Training steps of a published model as shapes only: what a step needs, without a weight or an image in memory."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from jaxdino import optim
from jaxdino.core import params, sharding
from jaxdino.data.photometric import normalize
from jaxdino.models import registry
from jaxdino.models.initial import ShapesOnly
from jaxdino.models.lora import LoRA, adapted
from jaxdino.models.remat import Remat
from jaxdino.objectives.classify import Classify
from jaxdino.objectives.distill import SelfDistillation, with_heads
from jaxdino.objectives.distill_settings import Distill, Projection
from jaxdino.objectives.objective import Objective
from jaxdino.stage import Group, Stage
from jaxdino.strategy import resolve
from jaxdino.train import state, step

CLASSES, STEPS = 1000, 1000
OUT_DIM, LOCALS, LOCAL_SIZE, MASKED = 65536, 8, 96, 0.25
GROUPS = {"trained": Group(lr=1e-4, weight_decay=0.05), "frozen": Group(frozen=True)}
GROUPS["decayed"] = replace(GROUPS["trained"], layer_decay=0.9)
HEAD_ONLY = (("@head", "trained"), ("@all", "frozen"))
STAGES = {
    "probe": dict(rules=HEAD_ONLY),
    "lora": dict(
        rules=((r"(.*\.)?lora\..*", "trained"), *HEAD_ONLY),
        lora=LoRA(rank=16, targets=("@attn",)),
    ),
    "full": dict(rules=(("@all", "decayed"),)),
    "distill": dict(rules=(("@all", "trained"),), clip_norm=3.0, clip_by="parameter"),
}
"""Method -> settings of its stage: a linear head, LoRA, full fine-tuning with layer-wise decay, DINOv2's training."""


class Shapes(NamedTuple):
    """A step and the shapes, with shardings, that it is compiled for.

    Attributes:
      now: the state, as `jaxdino.train.state`. batch: the images of a step.
    """

    compiled: Callable[[], Any]
    now: dict[str, Any]
    batch: dict[str, jax.ShapeDtypeStruct]


def shapes(model: str, method: str, mesh: Mesh, images: int, *, dtype: str, remat: Remat, size: int = 224) -> Shapes:
    """Return the step of a method for a batch of `images` on the mesh."""
    spec, how = registry.get(model), dict(dtype=jnp.dtype(dtype), remat=remat)
    used = {group for _, group in STAGES[method]["rules"]}
    stage = Stage(name=method, groups={name: GROUPS[name] for name in used}, steps=STEPS, **STAGES[method])
    make = _distilling if method == "distill" else _classifying
    spec, skeleton, objective_of, average, more, batch = make(spec, stage, mesh, images, size, how)
    plan = resolve(spec, skeleton, stage)
    tx = optim.build(plan, stage, STEPS)
    ema = {path: skeleton.shapes[path] for path in plan.trainable} if average else {}
    now = _placed(state.abstract(skeleton.shapes, skeleton, plan, tx, ema, more), mesh)
    objective = objective_of()
    mean, std = spec.preprocess.mean, spec.preprocess.std

    def prepared(key: jax.Array, given: step.Batch) -> step.Batch:
        images = {name: normalize(x, mean, std) for name, x in given.items() if x.dtype == jnp.uint8}
        return given | images

    decay = 0.999 if average else 0.0
    one = step.make_train_step(skeleton, objective, tx, prepared, ema_decay=decay)
    jitted = step.compile_train_step(one, now, mesh, remat=remat)
    where = sharding.batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where) for name, x in batch.items()}
    return Shapes(lambda: jitted.lower(now["moving"], now["frozen"], batch).compile(), now, batch)


def _classifying(spec: Any, stage: Stage, mesh: Mesh, images: int, size: int, how: dict[str, Any]) -> tuple:
    skeleton = spec.skeleton(CLASSES, **how)
    if stage.lora:
        skeleton = adapted(skeleton, spec, stage.lora)
    batch = {
        "image": jax.ShapeDtypeStruct((images, size, size, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((images,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((images,), jnp.float32),
    }
    return spec, skeleton, Classify, False, {}, batch


def _distilling(backbone: Any, stage: Stage, mesh: Mesh, images: int, size: int, how: dict[str, Any]) -> tuple:
    spec = with_heads(backbone, Projection(out_dim=OUT_DIM))
    skeleton = spec.skeleton(**how)
    reference = params.abstract(lambda: backbone.config.build(rngs=ShapesOnly(), drop_path=0.0, **how))
    settings = Distill(ibot=1.0, koleo=0.1)
    centre = jax.ShapeDtypeStruct((OUT_DIM,), jnp.float32)
    teacher = {
        "buffers": {path: skeleton.shapes[path] for path, entry in skeleton.entries.items() if entry.kind != "param"},
        "centres": dict.fromkeys(("dino_head", "ibot_head"), centre),
        "reference": {},
    }
    side = size // backbone.config.patch_size
    shards = sharding.batch_shards(mesh)

    def objective() -> Objective:
        return SelfDistillation(
            settings,
            skeleton,
            reference,
            temperature=lambda count: jnp.float32(settings.teacher_temperature),
            momentum=lambda count: jnp.float32(settings.momentum),
            capacity=int(images // shards * 2 * side**2 * MASKED),
            groups=shards,
        )

    batch = {
        "global": jax.ShapeDtypeStruct((images, 2, size, size, 3), jnp.uint8),
        "local": jax.ShapeDtypeStruct((images, LOCALS, LOCAL_SIZE, LOCAL_SIZE, 3), jnp.uint8),
        "mask": jax.ShapeDtypeStruct((images, 2, side, side), jnp.bool_),
        "weight": jax.ShapeDtypeStruct((images,), jnp.float32),
    }
    return spec, skeleton, objective, True, {"teacher": teacher}, batch


def _placed(tree: Any, mesh: Mesh) -> Any:
    """Return the shapes with the shardings that training gives them."""

    def one(x: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(one, tree, sharding.shardings(tree, mesh))
