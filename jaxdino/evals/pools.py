"""Pooled features of an image: those of a classification head, or means over a grid as well."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.heads.linear import POOLS, Pool
from jaxdino.models.output import Output
from jaxdino.models.spec import ModelSpec

CELLS = 4  # cells along a side


def grid(patches_BxHxWxD: jax.Array, cells: int = CELLS) -> jax.Array:
    """Return mean patches in each of cells x cells parts of the map: (B, cells, cells, D), float32, any H and W.

    Part i spans the rows from floor(i H / cells) to ceil((i + 1) H / cells), as in torch's AdaptiveAvgPool2d.
    """
    rows, columns = (_shares(side, cells) for side in patches_BxHxWxD.shape[1:3])
    return jnp.einsum("ih,jw,bhwd->bijd", rows, columns, patches_BxHxWxD.astype(jnp.float32))


def _shares(side: int, cells: int) -> np.ndarray:
    """Return (cells, side): the weight of each row in each part's mean."""
    part, place = np.arange(cells)[:, None], np.arange(side)
    inside = (place >= part * side // cells) & (place < -(-(part + 1) * side // cells))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def _grid(outs: Sequence[Output]) -> jax.Array:
    parts = grid(outs[-1].patches)
    return parts.reshape(len(parts), -1)


FEATURES = POOLS | {"grid": Pool(_grid, widths=CELLS * CELLS)}
"""The inputs of a classification head, and patch means in 4 x 4 parts of the image, concatenated.

Source of the last: VISSL classifies feature maps averaged to a few cells (arXiv:1905.01235).
"""


def check(name: str, spec: ModelSpec, setting: str = "pool") -> None:
    """Raise UserError for unknown features, with the nearest names, or features that a model does not have."""
    if name not in FEATURES:
        raise UserError(f"{setting} {name!r} is not known; {did_you_mean(name, FEATURES)}")
    if FEATURES[name].blocks > 1 and "backbone.cls_token" not in spec.skeleton().entries:
        raise UserError(f"{setting} {name!r} uses class tokens of several blocks, which {spec.name} does not have")


def look(network: Any, images: jax.Array, name: str) -> jax.Array:
    """Return features (B, D) of images; `network` is a backbone or a loaded model, `name` a key of `FEATURES`."""
    how = FEATURES[name]
    return how.features(network.intermediate_layers(images, how.blocks) if how.blocks > 1 else [network(images)])
