"""Adversarial attacks inside jit: FGSM and PGD in L-inf, PGD in L2, with a check that they do what they claim.

Pixels are in 0..1, and stay there. Source: Goodfellow et al., Explaining and Harnessing Adversarial Examples
(arXiv:1412.6572); Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks (arXiv:1706.06083).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core.bars import bar
from jaxdino.evaluation.context import Context
from jaxdino.evaluation.figure import Figure
from jaxdino.evaluation.intervals import bootstrap, of_bootstrap, share
from jaxdino.evaluation.predictions import batches_of, forward, joined_batches, spread, spread_places
from jaxdino.evaluation.resampled import mean_of
from jaxdino.evaluation.robustness import wrong
from jaxdino.evaluation.section import Block, Notes, Section, Table

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
    found = _measured(context)
    n, how = len(found["clean"]), context.resampling_of(found["index"])
    spans = bootstrap(mean_of(_means(found)), n, how)

    def right(name: str, errors: np.ndarray) -> Figure:
        return share(int((errors == 0).sum()), n, how, _pair(spans, f"{name}/right"))

    values: dict[str, Any] = {"clean": right("clean", found["clean"]), "attacks": {}}
    rows = [["none", values["clean"].text(), "", "", ""]]
    for attack in ATTACKS:
        name, sizes = attack.name, found[f"{attack.name}/size"]
        rose = int((found[f"{name}/after"] > found[f"{name}/before"]).sum())
        loss = {
            when: of_bootstrap(float(found[key].mean()), n, _pair(spans, key), how)
            for when, key in (("clean", f"{name}/before"), ("attacked", f"{name}/after"))
        }
        row = {"accuracy": right(name, found[f"{name}/wrong"]), "loss": loss}
        row |= {"loss_raised": share(rose, n, how, _pair(spans, f"{name}/rose"))}
        row |= {"in_ball": bool((sizes <= attack.radius + SLACK * (1 + attack.radius)).all())}
        row |= {"largest_change": float(sizes.max()), "radius": attack.radius}
        values["attacks"][name] = row
        change = f"{sizes.max():.4f} of {attack.radius:.4f}" + ("" if row["in_ball"] else ", OUTSIDE")
        rows.append([name, *(one.text() for one in (row["accuracy"], *loss.values(), row["loss_raised"])), change])
    rows[0].insert(3, "")
    heads = ["attack", "accuracy", "mean loss before", "after", "share with a higher loss", "largest change"]
    note = f"{n} images; pixels from 0 to 1; white box: the attack knows the network"
    blocks: list[Block] = [Table(heads, rows, note=note)]
    if not all(row["in_ball"] for row in values["attacks"].values()):
        blocks.insert(0, Notes(["An attack left its ball: its figures do not count."]))
    return [Section("attacks", "Attacks", values, blocks)]


def _means(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what is averaged over images, by name."""
    means = {"clean/right": (found["clean"] == 0).astype(float)}
    for name in (attack.name for attack in ATTACKS):
        before, after = found[f"{name}/before"].astype(float), found[f"{name}/after"].astype(float)
        means |= {f"{name}/before": before, f"{name}/after": after, f"{name}/rose": (after > before).astype(float)}
        means[f"{name}/right"] = (found[f"{name}/wrong"] == 0).astype(float)
    return means


def _pair(spans: dict[str, Any], name: str) -> tuple[float, float]:
    low, high = spans[name]
    return float(low), float(high)


def loss_of(model: Any, flat: Any, labels: jax.Array) -> Loss:
    """Return the loss of each image: cross entropy, or the mean binary cross entropy for labels (B, C)."""

    def loss(images: jax.Array) -> jax.Array:
        logits = forward(model, flat, images)[0]
        if labels.ndim == 2:
            return (jnp.logaddexp(0, logits) - logits * labels).mean(axis=1)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels.reshape(-1, 1), axis=1)[:, 0]

    return loss


def _measured(context: Context) -> dict[str, np.ndarray]:
    """Return "clean" (N,), the errors without an attack, "index" (N,), the images' numbers, and for each attack
    "NAME/wrong", "/before" and "/after" (the loss) and "/size" (of the change), (N,) each."""
    run, key, split = (
        context.run,
        jax.random.key(context.settings.seed),
        spread(context.split, context.settings.most_robust),
    )
    field, found = run.fields[0].name, []

    def change(how: Attack, flat: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        loss = loss_of(run.model, flat, labels)
        new = attacked(how, loss, key, images)
        size = jnp.abs(new - images).max(axis=(1, 2, 3)) if how.norm == "linf" else length(new - images)
        logits = forward(run.model, flat, new)[0]
        return {"logits": logits, "before": loss(images), "after": loss(new), "size": size}

    compiled = jax.jit(change, static_argnums=0)
    predict = jax.jit(lambda flat, images: forward(run.model, flat, images)[0])

    def measured(number: int, batch: Any, watched: Any) -> dict[str, np.ndarray]:
        read, labels = batch["weight"] > 0, batch[field]
        images = jnp.asarray(batch["image"], jnp.float32) / 255
        clean = wrong(context, np.asarray(predict(run.model.flat, images)), labels)[read]
        rows = {"clean": clean, "index": np.asarray(batch["index"])[read]}
        for attack in ATTACKS:
            given = run.model.flat, jax.random.fold_in(key, number), images, jnp.asarray(labels)
            out = {name: np.asarray(value) for name, value in compiled(attack, *given).items()}
            out["wrong"] = wrong(context, out.pop("logits"), labels)
            rows |= {f"{attack.name}/{name}": value[read] for name, value in out.items()}
            watched.update()
        return rows

    batches = batches_of(run, split, context.settings.batch_size)
    with bar(None, "attacking", total=len(batches) * len(ATTACKS), unit="batch") as watched:
        for number, batch in enumerate(batches):
            work = functools.partial(measured, number, batch, watched)
            found.append(context.kept(f"attacks-{number:06d}", work))
            watched.update((number + 1) * len(ATTACKS) - watched.n)
    rows = joined_batches(found)
    rows["index"] = spread_places(len(context.split), context.settings.most_robust)[rows["index"]]
    return rows
