"""Adversarial attacks inside jit: FGSM and PGD in L-inf, PGD in L2, with a check that they do what they claim.

Pixels are in 0..1, and stay there. Source: Goodfellow et al., Explaining and Harnessing Adversarial Examples
(arXiv:1412.6572); Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks (arXiv:1706.06083).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core.bars import bar
from jaxdino.evaluation.context import Context
from jaxdino.evaluation.figure import Figure
from jaxdino.evaluation.intervals import share
from jaxdino.evaluation.predictions import batches_of, forward, spread
from jaxdino.evaluation.robustness import wrong
from jaxdino.evaluation.section import Notes, Section, Table

SLACK = 1e-5
"""Rounding errors that a check of the ball allows, as a share of its radius plus 1."""
Loss = Callable[[jax.Array], jax.Array]
"""Function of images (B, H, W, C) that returns the loss of each, (B,)."""


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack: `steps` steps of `size` x radius in the norm "linf" or "l2"; several start at a random place."""

    norm: str
    radius: float
    steps: int = 1
    size: float = 1.0

    @property
    def name(self) -> str:
        """Its name in reports."""
        radius = f"{self.radius * 255:g}/255" if self.norm == "linf" else f"{self.radius:g}"
        return f"{'FGSM' if self.steps == 1 else f'PGD-{self.steps}'} {self.norm} {radius}"


ATTACKS = (
    Attack("linf", 1 / 255),
    Attack("linf", 4 / 255),
    Attack("linf", 1 / 255, 10, 0.25),
    Attack("linf", 4 / 255, 10, 0.25),
    Attack("l2", 0.25, 10, 0.25),
    Attack("l2", 0.5, 10, 0.25),
)


def attacked(how: Attack, loss: Loss, key: jax.Array, images: jax.Array) -> jax.Array:
    """Return images changed within the ball so that their loss rises; the best of all steps and of the clean image.

    Args:
      images: float32 (B, H, W, C) in 0..1.
    """
    slope = jax.grad(lambda x: loss(x).sum())

    def step(_: int, carried: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        now, best, most = carried
        moved = now + how.size * how.radius * _direction(slope(now), how.norm)
        now = jnp.clip(images + _within(moved - images, how), 0, 1)
        value = loss(now)
        better = value > most
        return now, jnp.where(better.reshape(-1, 1, 1, 1), now, best), jnp.maximum(value, most)

    start = images
    if how.steps > 1:
        noise = jax.random.uniform(key, images.shape, minval=-1.0, maxval=1.0)
        start = jnp.clip(images + _within(how.radius * noise, how), 0, 1)
    return jax.lax.fori_loop(0, how.steps, step, (start, images, loss(images)))[1]


def _direction(slope: jax.Array, norm: str) -> jax.Array:
    return jnp.sign(slope) if norm == "linf" else slope / jnp.maximum(length(slope), 1e-12).reshape(-1, 1, 1, 1)


def length(change: jax.Array) -> jax.Array:
    """Return the L2 norm of each image, (B,)."""
    return jnp.sqrt(jnp.square(change).sum(axis=(1, 2, 3)))


def _within(change: jax.Array, how: Attack) -> jax.Array:
    """Return the nearest change in the ball."""
    if how.norm == "linf":
        return jnp.clip(change, -how.radius, how.radius)
    return change * jnp.minimum(1, how.radius / jnp.maximum(length(change), 1e-12)).reshape(-1, 1, 1, 1)


def attacks(context: Context) -> list[Section]:
    """Measure the accuracy under each attack, and check that it raised the loss and stayed in its ball."""
    split = spread(context.split, context.settings.most_robust)
    clean, found = _measured(context, split)
    n, how = len(clean), dataclasses.replace(context.resampling, clusters=None)
    values: dict[str, Any] = {"clean": _right(clean, n, how), "attacks": {}}
    rows = [["none", values["clean"].text(), "", "", ""]]
    for attack, one in found.items():
        inside = bool((one["size"] <= attack.radius + SLACK * (1 + attack.radius)).all())
        raised = Figure(float((one["after"] > one["before"]).mean()), n, method="a share of images")
        row = {"accuracy": _right(one["wrong"], n, how), "loss_raised": raised, "in_ball": inside}
        row |= {"largest_change": float(one["size"].max()), "radius": attack.radius}
        row |= {"loss": {"clean": float(one["before"].mean()), "attacked": float(one["after"].mean())}}
        values["attacks"][attack.name] = row
        sizes = f"{one['size'].max():.4f} of {attack.radius:.4f}" + ("" if inside else ", OUTSIDE")
        losses = f"{one['before'].mean():.3f} to {one['after'].mean():.3f}"
        rows.append([attack.name, row["accuracy"].text(), losses, f"{raised.value:.1%}", sizes])
    heads = ["attack", "accuracy", "mean loss", "loss raised", "largest change"]
    note = f"{n} images; pixels from 0 to 1; white box: the attack knows the network"
    blocks = [Table(heads, rows, note=note)]
    if not all(row["in_ball"] for row in values["attacks"].values()):
        return [
            Section(
                "attacks", "Attacks", values, [Notes(["An attack left its ball: its figures do not count."]), *blocks]
            )
        ]
    return [Section("attacks", "Attacks", values, blocks)]


def _right(errors: np.ndarray, n: int, how: Any) -> Figure:
    """Return the share of images without an error."""
    return share(int((errors == 0).sum()), n, how)


def loss_of(model: Any, flat: Any, labels: jax.Array) -> Loss:
    """Return the loss of each image: cross entropy, or the mean binary cross entropy for labels (B, C)."""

    def loss(images: jax.Array) -> jax.Array:
        logits = forward(model, flat, images)[0]
        if labels.ndim == 2:
            return (jnp.logaddexp(0, logits) - logits * labels).mean(axis=1)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels.reshape(-1, 1), axis=1)[:, 0]

    return loss


def _measured(context: Context, split: Any) -> tuple[np.ndarray, dict[Attack, dict[str, np.ndarray]]]:
    run, key = context.run, jax.random.key(context.settings.seed)
    field, parts = run.fields[0].name, {attack: [] for attack in ATTACKS}
    clean: list[np.ndarray] = []

    def change(how: Attack, flat: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        loss = loss_of(run.model, flat, labels)
        new = attacked(how, loss, key, images)
        size = jnp.abs(new - images).max(axis=(1, 2, 3)) if how.norm == "linf" else length(new - images)
        logits = forward(run.model, flat, new)[0]
        return {"logits": logits, "before": loss(images), "after": loss(new), "size": size}

    compiled = jax.jit(change, static_argnums=0)
    predict = jax.jit(lambda flat, images: forward(run.model, flat, images)[0])
    batches = batches_of(run, split, context.settings.batch_size)
    with bar(None, "attacking", total=len(batches) * len(ATTACKS), unit="batch") as watched:
        for number, batch in enumerate(batches):
            read, labels = batch["weight"] > 0, batch[field]
            images = jnp.asarray(batch["image"], jnp.float32) / 255
            clean.append(wrong(context, np.asarray(predict(run.model.flat, images)), labels)[read])
            for attack, rows in parts.items():
                given = run.model.flat, jax.random.fold_in(key, number), images, jnp.asarray(labels)
                out = {name: np.asarray(value) for name, value in compiled(attack, *given).items()}
                out["wrong"] = wrong(context, out.pop("logits"), labels)
                rows.append({name: value[read] for name, value in out.items()})
                watched.update()
    joined = {a: {name: np.concatenate([row[name] for row in rows]) for name in rows[0]} for a, rows in parts.items()}
    return np.concatenate(clean), joined
