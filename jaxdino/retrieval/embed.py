"""Compute the embeddings of images with a loaded model."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.evals import pools, report

JOINT = "joint"
"""The pool of CLIP's space of images and texts."""


def default_pool(model: Any) -> str:
    """Return the features that are compared by default: CLIP's common space, of other models the class token."""
    return JOINT if _is_clip(model) else "cls"


def _is_clip(model: Any) -> bool:
    return hasattr(model, "encode_image")


def embedder(model: Any, pool: str) -> Callable[[jax.Array], jax.Array]:
    """Return the function images uint8 (B, H, W, C) -> embeddings (B, D).

    Args:
      pool: `JOINT`, or a key of `pools.FEATURES`.

    Raises:
      UserError: for an unknown pool, one that the model does not have, and a model that takes no images.
    """
    report.check_sight(model)
    if pool == JOINT:
        if _is_clip(getattr(model, "inner", None)):
            raise UserError(f"--pool {JOINT} is of a whole image: with --tiled give --pool cls or another")
        if not _is_clip(model):
            raise UserError(f"--pool {JOINT} is CLIP's space of images and texts, which {model.name} does not have")
        return model.encode_image
    pools.check(pool, model.card.spec, "--pool")
    return functools.partial(pools.look, model, name=pool)


def width(model: Any, pool: str) -> int:
    """Return the length D of an embedding, without computing one."""
    how = model.card.spec.preprocess
    images = jax.ShapeDtypeStruct((1, *how.size, len(how.mean)), np.uint8)
    return jax.eval_shape(embedder(model, pool), images).shape[-1]
