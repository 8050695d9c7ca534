"""The training step and the evaluation step: pure functions of flat dicts, compiled once per stage."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdino.core import sharding
from jaxdino.core.host_memory import return_freed
from jaxdino.core.params import Flat, Skeleton, bind, values
from jaxdino.core.probe import probe
from jaxdino.core.slices import sliced
from jaxdino.models import few_images
from jaxdino.models.batch_norm import set_training
from jaxdino.models.lora import set_dropout
from jaxdino.models.remat import Remat
from jaxdino.objectives.objective import Objective
from jaxdino.train.state import GROWTH_INTERVAL, State

Batch = dict[str, jax.Array]
AUGMENTED, TARGETS, LOSS, GRADIENT, UPDATED = "augmented", "targets", "loss", "gradient", "updated"
"""Names of the values that a recorder sees (`jaxdino.core.probe`), in this order."""


def make_train_step(
    skeleton: Skeleton,
    objective: Objective,
    tx: optax.GradientTransformation,
    augment: Callable[[jax.Array, Batch], Batch],
    *,
    accumulate: int = 1,
    ema_decay: float | Callable[[jax.Array], jax.Array] = 0.0,
    scale_loss: bool = False,
) -> Callable[[State, Flat, Batch], tuple[State, dict[str, jax.Array]]]:
    """Make the step (moving, frozen, batch) -> (moving, measured), over the global batch.

    `measured` holds loss, grad_norm, skipped, the objective's `measures` and its monitored signals, and the momentum
    of the average if it changes. Batch norms that
    are trained normalise with the statistics of the batch (of each slice with `accumulate`), including padding of
    weight 0; frozen ones use their running statistics.

    Args:
      objective: `targets(moving, frozen, parts)` is called once for the whole batch, without gradient;
        `loss(model, part, key)` returns the weighted mean over a slice, and its `measures`.
      augment: (key, batch of uint8 images) -> batch of normalised images, inside the compiled step.
      accumulate: number of slices per batch; the sum of their gradients is the gradient of the whole batch.
      ema_decay: ema <- decay * ema + (1 - decay) * trainable after each step; a number (0 disables it) or a function of
        the step.
      scale_loss: for float16: scale the loss; skip and count steps whose gradients are not finite.
    """

    def train_step(moving: State, frozen: Flat, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(moving["key"]), moving["step"])
        augment_key, model_key = jax.random.split(key)
        batch = probe(AUGMENTED, augment(augment_key, batch))
        total = jnp.maximum(jnp.sum(batch["weight"]), 1e-12)
        keys = jax.random.split(model_key, accumulate) if accumulate > 1 else model_key[None]
        parts = sliced(batch, accumulate) | {"key": keys}
        parts, changed, watched = objective.targets(moving, frozen, parts)
        parts = probe(TARGETS, parts)
        scale = moving["scale"]["value"] if scale_loss else jnp.ones(())

        def slice_loss(trainable: Flat, buffers: Flat, part: Batch):
            model = bind(skeleton, frozen | buffers | trainable)
            set_training(model, trainable)
            set_dropout(model, part["key"])
            loss, aux = objective.loss(model, part, part["key"])
            loss = probe(LOSS, loss)
            share = jnp.sum(part["weight"]) / total  # share of this slice in the batch's weighted mean
            sums = {name: value * share for name, value in {"loss": loss, **aux}.items()}
            return loss * share * scale, (values(model, buffers), sums)

        gradient = jax.grad(slice_loss, has_aux=True)  # only of the trainable leaves
        grads, buffers, sums = accumulated(gradient, moving, parts, ("loss", *objective.measures))
        grads = probe(GRADIENT, jax.tree.map(lambda grad: grad / scale, grads))
        updates, opt = tx.update(grads, moving["opt"], moving["trainable"])
        trainable = probe(UPDATED, optax.apply_updates(moving["trainable"], updates))
        decay = ema_decay(moving["step"]) if callable(ema_decay) else ema_decay
        norm = optax.tree.norm(grads)
        new = {"trainable": trainable, "buffers": buffers, "opt": opt, "ema": averaged(moving["ema"], trainable, decay)}
        new = moving | changed | new
        if scale_loss:
            new = keep_if(jnp.isfinite(norm), new, moving)
            new["scale"] = next_scale(moving["scale"], jnp.isfinite(norm))
        new["step"] = moving["step"] + 1
        watched |= {"momentum": decay} if callable(ema_decay) else {}
        return new, sums | watched | {"grad_norm": norm, "skipped": new["scale"]["skipped"]}

    return train_step


def averaged(ema: Flat, trainable: Flat, decay: float | jax.Array) -> Flat:
    """Update the average after a step. Averaged leaves that are not trained now do not change. {} without EMA."""
    moved = {path: leaf for path, leaf in trainable.items() if path in ema}
    return ema | optax.incremental_update(moved, {path: ema[path] for path in moved}, 1.0 - decay)


def accumulated(gradient: Callable, moving: State, parts: Batch, names: Sequence[str]) -> tuple[Flat, Flat, Flat]:
    """Compute (grads, buffers, sums) of the whole batch, one slice in memory at a time.

    Args:
      gradient: (trainable, buffers, slice) -> (grads, (buffers, sums)); `names` are the keys of `sums`.
    """
    trainable, buffers = moving["trainable"], moving["buffers"]
    if parts["weight"].shape[0] == 1:
        grads, (buffers, sums) = gradient(trainable, buffers, jax.tree.map(lambda x: x[0], parts))
        return grads, buffers, sums

    def one(carried, part):
        grads, buffers, sums = carried
        found, (buffers, found_sums) = gradient(trainable, buffers, part)
        add = jax.tree.map(jnp.add, (grads, sums), (found, found_sums))
        return (add[0], buffers, add[1]), None

    start = (jax.tree.map(jnp.zeros_like, trainable), buffers, {name: jnp.zeros((), jnp.float32) for name in names})
    return jax.lax.scan(one, start, parts)[0]


def keep_if(good: jax.Array, new: Any, old: Any) -> Any:
    """Return `new` if the step is good, `old` if it is skipped."""
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)


def next_scale(scale: dict[str, jax.Array], finite: jax.Array) -> dict[str, jax.Array]:
    """Update the dynamic loss scale: halve after an overflow, double after GROWTH_INTERVAL good steps in a row.

    Source: Micikevicius et al. 2018 (arXiv:1710.03740), section 3.2; the constants are torch's GradScaler's.
    """
    good = jnp.where(finite, scale["good"] + 1, 0)
    grown = good >= GROWTH_INTERVAL
    value = jnp.where(grown, scale["value"] * 2, scale["value"])
    return {
        "value": jnp.clip(jnp.where(finite, value, scale["value"] / 2), 1.0, 2.0**24),
        "good": jnp.where(grown, 0, good),
        "skipped": scale["skipped"] + jnp.where(finite, 0, 1),
    }


KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
"""For a CPU: XLA would drop the barriers of rematerialisation, and merge each repeated forward pass with the first."""


def compile_train_step(
    step: Callable, state: State, mesh: Mesh, rules: sharding.Rules = (), *, remat: Remat = False
) -> Callable:
    """Compile the step: state and batch sharded, the moving part donated, metrics on every device.

    Args:
      remat: whether the model recomputes activations in the backward pass.
    """
    moving, frozen = (sharding.shardings(state[part], mesh, rules) for part in ("moving", "frozen"))
    return jax.jit(
        _traced_on(mesh, step),
        in_shardings=(moving, frozen, sharding.batch_sharding(mesh)),
        out_shardings=(moving, sharding.replicated(mesh)),
        donate_argnums=0,
        compiler_options=KEEP_BARRIERS if remat and jax.default_backend() == "cpu" else None,
    )


def compiled(train_step: Any, moving: State, frozen: Flat, batch: Batch) -> Any:
    """Return the program of a step for arguments like these; the memory that its compilation took is given back."""
    program = train_step.lower(moving, frozen, batch).compile()
    return_freed()
    return program


def compile_eval_step(skeleton: Skeleton, normalize: Callable[[jax.Array], jax.Array], mesh: Mesh) -> Callable:
    """Compile the evaluation step (flat, batch) -> {"logits", all entries but the image}, on every device.

    Args:
      normalize: uint8 (B, H, W, C) -> the model's input.
    """

    def eval_step(flat: Flat, batch: Batch) -> Batch:
        logits = few_images.forward(bind(skeleton, flat), normalize(batch["image"])).logits
        return {name: value for name, value in batch.items() if name != "image"} | {"logits": logits}

    return jax.jit(_traced_on(mesh, eval_step), out_shardings=sharding.replicated(mesh))


def _traced_on(mesh: Mesh, step: Callable) -> Callable:
    """Return the step, with the mesh known to the layers while it is traced."""

    @functools.wraps(step)
    def on_mesh(*args: Any) -> Any:
        with sharding.on(mesh):
            return step(*args)

    return on_mesh
