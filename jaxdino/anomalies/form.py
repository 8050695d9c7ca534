"""The two forms of a detector, as data: which patch features, which distance, and how an image's score is made."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean


@dataclasses.dataclass(frozen=True)
class Form:
    """How a detector compares patches.

    Attributes:
      layers: the last blocks (or stages) whose features are joined, or their indices from 0.
      neighbourhood: features are means over so many patches a side.
      cosine: distances are 1 - cosine; otherwise Euclidean.
      share: an image's score is the mean of this share of its patch distances, the largest ones; 0: the largest one.
    """

    layers: int | tuple[int, ...]
    neighbourhood: int
    cosine: bool
    share: float


FORMS = {
    "anomalydino": Form(layers=1, neighbourhood=1, cosine=True, share=0.01),
    "patchcore": Form(layers=(1, 2), neighbourhood=3, cosine=False, share=0.0),
}
"""Method -> its form. Unlike the published ones, `anomalydino` neither masks the background nor rotates the good
images, and `patchcore` does not reduce the width of the features.

Source: Damm et al. 2024 (AnomalyDINO, arXiv:2405.14529), section 3; Roth et al. 2021 (PatchCore, arXiv:2106.08265),
section 3, and amazon-science/patchcore-inspection, whose score of an image is its largest distance.
"""


def form_named(method: str | None, model: Any, layers: int | tuple[int, ...] | None) -> tuple[str, Form]:
    """Return a method and its form.

    Args:
      method: a key of `FORMS`; None takes "anomalydino" for a ViT, "patchcore" for a network of stages.
      layers: replaces those of the form.

    Raises:
      UserError: for an unknown method, and layers that the model does not have.
    """
    if method is None:
        method = usual(model.card.spec.config)
    if method not in FORMS:
        raise UserError(f"--method {method!r} is not known; {did_you_mean(method, FORMS)}")
    form = FORMS[method]
    form = form if layers is None else dataclasses.replace(form, layers=layers)
    grid(model, form)
    return method, form


def usual(config: Any) -> str:
    """Return the method for a network: "patchcore" for one of stages, which has `depths`, else "anomalydino"."""
    return "patchcore" if hasattr(config, "depths") else "anomalydino"


def features(model: Any, form: Form) -> Callable[[Any], jax.Array]:
    """Return the function images uint8 (B, H, W, C) -> patch features float32 (B, h, w, D).

    (h, w) is the largest grid of the layers; smaller ones are resized bilinearly. For cosines, features get length one.
    """

    def look(images: Any) -> jax.Array:
        return _joined([out.patches for out in model.intermediate_layers(images, form.layers)], form)

    return look


def _joined(maps: list[jax.Array], form: Form) -> jax.Array:
    height, width = max(one.shape[1:3] for one in maps)
    found = []
    for one in maps:
        one = neighbourhood_mean(one.astype(jnp.float32), form.neighbourhood)
        shape = (one.shape[0], height, width, one.shape[-1])
        found.append(one if one.shape == shape else jax.image.resize(one, shape, "bilinear"))
    joined = jnp.concatenate(found, axis=-1)
    if form.cosine:
        joined = joined / jnp.maximum(jnp.linalg.norm(joined, axis=-1, keepdims=True), 1e-12)
    return joined


def neighbourhood_mean(x_BxhxwxD: jax.Array, side: int) -> jax.Array:
    """Return means over side x side patches; at the border over those that are inside."""
    if side == 1:
        return x_BxhxwxD
    window, strides = (1, side, side, 1), (1, 1, 1, 1)
    total = jax.lax.reduce_window(x_BxhxwxD, 0.0, jax.lax.add, window, strides, "SAME")
    count = jax.lax.reduce_window(jnp.ones((1, *x_BxhxwxD.shape[1:3], 1)), 0.0, jax.lax.add, window, strides, "SAME")
    return total / count


def grid(model: Any, form: Form) -> tuple[int, int, int]:
    """Return (h, w, D) of the features of an image, without computing them."""
    how = model.card.spec.preprocess
    images = jax.ShapeDtypeStruct((1, *how.size, len(how.mean)), jnp.uint8)
    return tuple(jax.eval_shape(features(model, form), images).shape[1:])
