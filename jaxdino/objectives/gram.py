"""Anchors: losses that keep features near those of a reference, usually the weights that training started from.

Source: Siméoni et al. 2025, DINOv3 (arXiv:2508.10104), section 4.2, equation 2, for the Gram matrices.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.objectives.classify import weighted_mean
from jaxdino.objectives.dino import EXACT, counted
from jaxdino.objectives.koleo import unit

CLIPS = ("none", "both", "reference")


def gram_loss(
    student: jax.Array,
    reference: jax.Array,
    weight: jax.Array,
    per_image: bool = True,
    clip_negatives: str = "none",
) -> jax.Array:
    """Compute the mean squared difference between the patch similarities of student and reference.

    Similarities are cosines of all pairs of patches. The features themselves may rotate.

    Args:
      student: (b, h, w, D). reference: (b, h, w, D'); no gradient flows to it.
      weight: (b,), weights of the images in the mean.
      per_image: use pairs within an image; else all pairs of the batch, (b h w)^2 of them.
      clip_negatives: whose negative cosines are set to 0: "none", "both" or "reference". (DINOv3's
        `remove_only_teacher_neg` is intended to clip the student's as well if both are negative; but its code clips the
        reference's first, so that none are left.)

    Returns:
      A scalar in float32; 0 if all weights are 0.

    Raises:
      UserError: for an unknown `clip_negatives`, or different grids.
    """
    if clip_negatives not in CLIPS:
        raise UserError(f"clip_negatives={clip_negatives!r} is unknown; {did_you_mean(clip_negatives, CLIPS)}")
    if student.shape[:3] != reference.shape[:3]:
        raise UserError(
            f"the student's patches are (images, rows, columns) = {student.shape[:3]}, the reference's "
            f"{reference.shape[:3]}: resize the reference's first"
        )
    weight = weight.astype(jnp.float32)
    ours = cosines(counted(student, weight), per_image, clip=clip_negatives == "both")
    theirs = cosines(counted(reference, weight), per_image, clip=clip_negatives != "none")
    errors = jnp.square(ours - lax.stop_gradient(theirs))
    if per_image:
        return weighted_mean(jnp.mean(errors, axis=(1, 2)), weight)
    weights = jnp.repeat(weight, student.shape[1] * student.shape[2])
    return weighted_mean(errors[0], weights[:, None] * weights[None])


def cosines(patches: jax.Array, per_image: bool, clip: bool) -> jax.Array:
    """Compute cosines between patches: (b, h, w, D) -> (b, N, N) within each image, or (1, b N, b N) for all."""
    rows = unit(patches).reshape(len(patches) if per_image else 1, -1, patches.shape[-1])
    found = jnp.einsum("bnd,bmd->bnm", rows, rows, precision=EXACT)
    return jnp.where(found < 0, 0.0, found) if clip else found


def feature_distance(student: jax.Array, reference: jax.Array, weight: jax.Array) -> jax.Array:
    """Compute the weighted mean of 1 - cosine of features (n, D) and their reference (n, D); weight (n,); float32."""
    weight = weight.astype(jnp.float32)
    ours = unit(counted(student, weight))
    theirs = lax.stop_gradient(unit(counted(reference, weight)))
    return weighted_mean(1 - jnp.sum(ours * theirs, axis=-1), weight)
