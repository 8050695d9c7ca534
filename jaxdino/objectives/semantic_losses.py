"""Losses of class maps: cross entropy and focal loss of each pixel, Dice and Lovasz of each class of an image."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxdino.objectives.classify import focus


def pixel_losses(logits: jax.Array, truth: jax.Array, smoothing: float = 0.0, gamma: float = 0.0) -> jax.Array:
    """Return the cross entropy (B, H, W) of logits (B, H, W, C) against classes (B, H, W).

    Args:
      smoothing: share of the target spread evenly over all classes.
      gamma: above 0, each loss is multiplied by (1 - p)^gamma, p the probability of the true class.

    Source: Lin et al. 2017 (arXiv:1708.02002), equation 4, with softmax in place of the sigmoid.
    """
    score = jnp.take_along_axis(logits, truth[..., None], axis=-1)[..., 0]
    total = jax.nn.logsumexp(logits, axis=-1)
    losses = total - (1 - smoothing) * score - smoothing * jnp.mean(logits, axis=-1)
    return losses * focus(1 - jnp.exp(score - total), gamma) if gamma else losses


def dice_losses(shares: jax.Array, truth: jax.Array, counted: jax.Array, smooth: float = 1.0) -> jax.Array:
    """Return, for each image, the mean of 1 - Dice over the classes that its counted pixels have: (B,), 0 without any.

    Dice of a class is (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth) over the counted pixels.

    Args:
      shares: probabilities (B, H, W, C). truth: (B, H, W), from 0. counted: 1 or 0, (B, H, W). smooth: in pixels.

    Source: Milletari et al. 2016 (arXiv:1606.04797), V-Net, without squares; Sudre et al. 2017 (arXiv:1707.03237) for
    several classes.
    """
    target = jax.nn.one_hot(truth, shares.shape[-1]) * counted[..., None]
    found = shares * counted[..., None]
    both, true, given = (jnp.sum(one, axis=(1, 2)) for one in (found * target, target, found))
    losses = 1 - (2 * both + smooth) / (given + true + smooth)
    return _of_present(losses, true > 0)


def lovasz_losses(shares: jax.Array, truth: jax.Array, counted: jax.Array) -> jax.Array:
    """Return, for each image, the mean Lovasz extension of 1 - IoU over the classes that it has: (B,), 0 without any.

    Shapes as in `dice_losses`. Ignored pixels have no error, so they come last and add nothing.

    Source: Berman et al. 2018 (arXiv:1705.08790), Lovasz-softmax, equations 8 to 12, with classes "present" and
    per_image as in bermanmaxim/LovaszSoftmax.
    """
    target = jax.nn.one_hot(truth, shares.shape[-1]) * counted[..., None]
    batch, classes = len(shares), shares.shape[-1]
    truths = target.reshape(batch, -1, classes).swapaxes(1, 2)
    errors = jnp.abs(target - shares * counted[..., None]).reshape(batch, -1, classes).swapaxes(1, 2)
    order = jnp.argsort(-lax.stop_gradient(errors), axis=-1)
    ranked = jnp.take_along_axis(truths, order, axis=-1)
    whole = jnp.sum(ranked, axis=-1, keepdims=True)
    missed = jnp.cumsum(ranked, axis=-1)
    union = whole + jnp.cumsum(1 - ranked, axis=-1)
    jaccard = 1 - (whole - missed) / union
    slope = jnp.diff(jaccard, axis=-1, prepend=0.0)
    losses = jnp.sum(jnp.take_along_axis(errors, order, axis=-1) * slope, axis=-1)
    return _of_present(losses, whole[..., 0] > 0)


def _of_present(losses_BxC: jax.Array, present_BxC: jax.Array) -> jax.Array:
    count = jnp.maximum(jnp.sum(present_BxC, axis=1), 1)
    return jnp.sum(jnp.where(present_BxC, losses_BxC, 0.0), axis=1) / count


def near_boundary(mask: jax.Array, ignored: int, radius: int) -> jax.Array:
    """Return whether another class is within `radius` pixels along both axes, bool (B, H, W); ignored ones are none."""
    if not radius:
        return jnp.zeros(mask.shape, bool)
    window, ones = (1, 2 * radius + 1, 2 * radius + 1), (1, 1, 1)
    classes = mask.astype(jnp.int32)
    high = lax.reduce_window(jnp.where(classes == ignored, -1, classes), -1, lax.max, window, ones, "SAME")
    low = lax.reduce_window(classes, ignored, lax.min, window, ones, "SAME")
    return (high >= 0) & (low != high)
