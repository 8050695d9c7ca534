"""Test-time augmentation: several views of preprocessed images, whose probabilities are averaged."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_expit, log_softmax, logsumexp

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean

ZOOM = 7 / 8
"""Share of each side that a crop shows."""
CROPS = {"zoom": ((0.5, 0.5),), "corners": ((0, 0), (0, 1), (1, 0), (1, 1))}
"""Kind of views -> the places of their crops, as shares of the margin (top, left)."""
FLIP = "flip"
KINDS = (FLIP, *CROPS)


def kinds_of(text: str | None, flag: str = "tta") -> tuple[str, ...]:
    """Return the kinds of views in a list with commas: flip (left and right), zoom, corners. () for None.

    Raises:
      UserError: for an unknown kind.
    """
    kinds = tuple(dict.fromkeys(one.strip() for one in (text or "").split(",") if one.strip()))
    for one in kinds:
        if one not in KINDS:
            raise UserError(f"{flag} {text}: {one!r} is not a kind of views; {did_you_mean(one, KINDS)}")
    if text is not None and not kinds:
        raise UserError(f"{flag} is empty: give some of {', '.join(KINDS)}")
    return kinds


def views(images: np.ndarray, kinds: Sequence[str]) -> list[np.ndarray]:
    """Return the images uint8 (B, H, W, C) themselves and their other views, of the same shape.

    A crop shows `ZOOM` of each side, resized; with "flip", each view is there mirrored as well.
    """
    found = [images]
    for kind in kinds:
        found += [np.asarray(_crop(images, place)) for place in CROPS.get(kind, ())]
    return found + [view[:, :, ::-1] for view in found] if FLIP in kinds else found


@functools.partial(jax.jit, static_argnums=1)
def _crop(images: jax.Array, place: tuple[float, float]) -> jax.Array:
    sides = images.shape[1:3]
    small = [max(1, round(ZOOM * side)) for side in sides]
    top, left = (round(share * (side - part)) for share, side, part in zip(place, sides, small, strict=True))
    part = images[:, top : top + small[0], left : left + small[1]].astype(jnp.float32)
    return jnp.clip(jnp.round(jax.image.resize(part, images.shape, "linear")), 0, 255).astype(jnp.uint8)


def scores(model: Any, images: np.ndarray, kinds: Sequence[str], several: bool) -> Any:
    """Return scores (B, C) of images: the model's logits, or those that give the mean probabilities of all views.

    Args:
      several: whether an image has any number of classes, each with a probability by sigmoid.
    """
    if not kinds:
        return model(images).logits
    return averaged([np.asarray(model(view).logits, np.float64) for view in views(images, kinds)], several)


def averaged(each: Sequence[np.ndarray], several: bool) -> np.ndarray:
    """Return the scores (B, C) that give the mean probabilities of several views' logits (B, C); see `scores`."""
    logs = np.stack([log_expit(one) if several else log_softmax(one, axis=1) for one in each])
    mean = logsumexp(logs, axis=0) - np.log(len(each))
    if not several:
        return mean
    others = logsumexp(np.stack([log_expit(-one) for one in each]), axis=0) - np.log(len(each))
    return mean - others
