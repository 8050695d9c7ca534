"""What the patches of images say: attention of the class token, similarity of patches, matches between two images."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.evals.pictures import look


class Match(NamedTuple):
    """Two patches, each the most similar one of the other's image.

    Attributes:
      a, b: centres (x, y) of the patches in pixels of the two images, as the model received them.
    """

    a: tuple[float, float]
    b: tuple[float, float]
    cosine: float


def attention(skeleton: Skeleton, normalized: Callable[[jax.Array], jax.Array]) -> Callable[[Flat, Any], Any]:
    """Return the compiled function (parameters, images) -> attention (B, heads, h, w) of the class token, or None."""
    return jax.jit(lambda flat, images: look(bind(skeleton, flat).backbone, normalized(images)).attention)


@jax.jit
def similarity(a_BxhxwxD: jax.Array, b_BxhxwxD: jax.Array) -> jax.Array:
    """Return the cosine of each patch with each of the other image, float32 (B, ha, wa, hb, wb)."""
    unit = [
        x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in map(_wide, (a_BxhxwxD, b_BxhxwxD))
    ]
    return jnp.einsum("bijd,bkld->bijkl", *unit, precision=jax.lax.Precision.HIGHEST)


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


def mutual(cosines_hxwxhxw: np.ndarray, sizes: Sequence[tuple[int, ...]]) -> list[Match]:
    """Return the patches of two images that are each other's most similar ones, the highest cosine first.

    Args:
      sizes: height and width of the two images in pixels.

    Source: best buddies, Dekel et al. 2015 (Best-Buddies Similarity for Robust Template Matching), section 3.1.
    """
    grid_a, grid_b = cosines_hxwxhxw.shape[:2], cosines_hxwxhxw.shape[2:]
    flat = cosines_hxwxhxw.reshape(grid_a[0] * grid_a[1], -1)
    to_b, to_a = flat.argmax(axis=1), flat.argmax(axis=0)
    rows = np.flatnonzero(to_a[to_b] == np.arange(len(flat)))
    found = [
        Match(_centre(row, grid_a, sizes[0]), _centre(to_b[row], grid_b, sizes[1]), float(flat[row, to_b[row]]))
        for row in rows.tolist()
    ]
    return sorted(found, key=lambda match: -match.cosine)


def _centre(place: int, grid: tuple[int, ...], size: tuple[int, ...]) -> tuple[float, float]:
    """Return the centre (x, y) of a patch in pixels."""
    row, column = divmod(int(place), grid[1])
    return (column + 0.5) * size[1] / grid[1], (row + 0.5) * size[0] / grid[0]


def check_pair(a: Any, b: Any) -> None:
    """Raise UserError unless two batches have the same number of images."""
    if len(a) != len(b):
        raise UserError(f"there are {len(a)} images and {len(b)}: each of the first is compared with one of the second")
