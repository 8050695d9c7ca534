"""Knowledge distillation: a student learns from the labels and from what a frozen teacher makes of the same images.

Sources: Hinton et al. 2015 (arXiv:1503.02531), section 2, for the probabilities: divided by a temperature T, the loss
multiplied by T squared. Tokens are compared after a linear layer on the student's, as in lightly-train's distillation
(`distance="mse"`, patches alone) and, with the cosine, in the feature distillation of DINOv2's students.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.core.slices import over_slices
from jaxdino.objectives.classify import Classify, weighted_mean
from jaxdino.objectives.settings import Teaching

FEATURES, PATCHES = "align_features", "align_patches"
"""Names of the student's layers to the teacher's width."""
REFERENCE = "reference"
"""Entry of the moving state that holds the teacher's leaves."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """How the teacher sees a batch.

    Attributes:
      skeleton: its network. size: (height, width) of its images.
      mean, std: its own normalisation; student_mean, student_std: that of the images in the batch.
    """

    skeleton: Skeleton
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    student_mean: tuple[float, ...]
    student_std: tuple[float, ...]

    def images(self, images: jax.Array) -> jax.Array:
        """Convert images (B, H, W, C), normalised for the student, to the teacher's size and normalisation."""
        mean, std, own_mean, own_std = (
            jnp.asarray(one, jnp.float32).reshape(1, 1, 1, -1)
            for one in (self.student_mean, self.student_std, self.mean, self.std)
        )
        images = images.astype(jnp.float32)
        if (self.student_mean, self.student_std) != (self.mean, self.std):
            images = (images * std + mean - own_mean) / own_std
        shape = (len(images), *self.size, images.shape[-1])
        return images if images.shape == shape else jax.image.resize(images, shape, "linear", antialias=True)


@dataclasses.dataclass(frozen=True)
class KnowledgeDistillation:
    """The objective of one stage.

    Attributes:
      teacher: None if the batches have its outputs.
      labels: the loss of the labels; None for images without labels.
    """

    settings: Teaching
    teacher: Teacher | None
    labels: Classify | None

    @property
    def measures(self) -> tuple[str, ...]:
        """Accuracy, and the names of the individual losses."""
        of = self.settings
        named = {"teacher_loss": of.alpha, "features_loss": of.features, "patches_loss": of.patches}
        return (*(("accuracy", "label_loss") if self.labels else ()), *(name for name, value in named.items() if value))

    def targets(self, moving: dict, frozen: Flat, parts: dict) -> tuple[dict, dict, dict]:
        """Add what the teacher makes of the images: "teacher_logits", "teacher_cls", "teacher_patches", as needed."""
        if (teacher := self.teacher) is None:
            return parts, {}, {}

        def look(carried: tuple, part: dict) -> tuple[tuple, dict]:
            out = bind(teacher.skeleton, moving[REFERENCE])(teacher.images(part["image"]))
            seen = {}
            if self.settings.alpha:
                seen["teacher_logits"] = out.logits
            if self.settings.features:
                seen["teacher_cls"] = out.cls
            if self.settings.patches:
                seen["teacher_patches"] = out.patches
            return carried, {name: jax.lax.stop_gradient(value.astype(jnp.float32)) for name, value in seen.items()}

        _, seen = over_slices(look, (), parts)
        return parts | seen, {}, {}

    def loss(self, model: Any, part: dict[str, jax.Array], key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Compute the weighted mean loss of a slice, and its terms, float32 scalars."""
        out, of = model(part["image"], key=key), self.settings
        weight = part["weight"].astype(jnp.float32)
        found: dict[str, jax.Array] = {}
        total = jnp.zeros(())
        if self.labels:
            found["label_loss"], measured = self.labels.of_logits(out.logits, part)
            found |= measured
            total += (1 - of.alpha) * found["label_loss"]
        if of.alpha:
            losses = soft_loss(out.logits.astype(jnp.float32), part["teacher_logits"], of.temperature)
            found["teacher_loss"] = weighted_mean(losses, weight)
            total += of.alpha * found["teacher_loss"]
        if of.features:
            far = distance(getattr(model, FEATURES)(out.cls), part["teacher_cls"], of.distance)
            found["features_loss"] = weighted_mean(far, weight)
            total += of.features * found["features_loss"]
        if of.patches:
            moved = on_grid(getattr(model, PATCHES)(out.patches), part["teacher_patches"].shape[1:3])
            far = distance(moved, part["teacher_patches"], of.distance).mean(axis=(1, 2))
            found["patches_loss"] = weighted_mean(far, weight)
            total += of.patches * found["patches_loss"]
        return total, found


def soft_loss(logits: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Return T^2 KL(teacher || student) of the probabilities softened by T, (B,), for logits (B, C)."""
    log_p = jax.nn.log_softmax(logits / temperature)
    log_q = jax.nn.log_softmax(teacher / temperature)
    return temperature**2 * jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)


def distance(tokens: jax.Array, teacher: jax.Array, kind: str) -> jax.Array:
    """Return the distance of tokens (..., D): 1 - cosine, or the mean of squared differences; (...)."""
    tokens = tokens.astype(jnp.float32)
    if kind == "mse":
        return jnp.square(tokens - teacher).mean(axis=-1)
    lengths = jnp.sqrt(jnp.square(tokens).sum(-1) * jnp.square(teacher).sum(-1) + 1e-12)
    return 1 - (tokens * teacher).sum(axis=-1) / lengths


def on_grid(patches: jax.Array, grid: tuple[int, ...]) -> jax.Array:
    """Resize patch tokens (B, h, w, D) to a grid, bilinear without antialias, as torch's `interpolate`."""
    b, h, w, d = patches.shape
    return patches if (h, w) == grid else jax.image.resize(patches, (b, *grid, d), "linear", antialias=False)
