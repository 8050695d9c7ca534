"""Anchors: what keeps features near those of a reference, as a rule the weights that training started from.

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
    """The mean squared difference between the cosines of all pairs of patches and those of the reference.

    Which patches are alike is kept; the features themselves are free to turn.

    Args:
      student: (b, h, w, D). reference: (b, h, w, D'); no gradient flows to it.
      weight: (b,) of the images in the mean.
      per_image: pairs within an image; else all pairs of the batch, (b h w)^2 of them.
      clip_negatives: whose negative cosines are taken for 0: "none", "both" or "reference". (DINOv3's
        `remove_only_teacher_neg` means to clip the student's too where both are negative; its code clips the
        reference's first, which leaves none.)

    Returns:
      A scalar in float32; 0 where all weights are 0.

    Raises:
      UserError: for an unknown `clip_negatives`, or grids that differ.
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
    """(b, h, w, D) -> (b, N, N) cosines between patches of an image, or (1, b N, b N) between all."""
    rows = unit(patches).reshape(len(patches) if per_image else 1, -1, patches.shape[-1])
    found = jnp.einsum("bnd,bmd->bnm", rows, rows, precision=EXACT)
    return jnp.where(found < 0, 0.0, found) if clip else found


def feature_distance(student: jax.Array, reference: jax.Array, weight: jax.Array) -> jax.Array:
    """The mean of 1 - cosine between features (n, D) and their reference (n, D), by weight (n,); a scalar, float32."""
    weight = weight.astype(jnp.float32)
    ours = unit(counted(student, weight))
    theirs = lax.stop_gradient(unit(counted(reference, weight)))
    return weighted_mean(1 - jnp.sum(ours * theirs, axis=-1), weight)
